"""Rows of uploaded files; the bytes are blobs."""

from sqlalchemy import Connection, exists, or_, select

from purvey.contracts.jobs import TERMINAL
from purvey.contracts.records import FileRecord
from purvey.store.rows import OwnedRows
from purvey.store.tables import DATASETS, FILES, JOBS

_ROWS = OwnedRows(table=FILES, record_type=FileRecord, noun="file")
insert, get, page, delete = _ROWS.insert, _ROWS.get, _ROWS.page, _ROWS.delete


def references(conn: Connection, project_id: str, file_id: str) -> list[str]:
    """List ids of the project's unfinished jobs and datasets that still need the file."""
    jobs = conn.execute(
        select(JOBS.c.id).where(
            JOBS.c.project_id == project_id,
            JOBS.c.status.not_in(TERMINAL),
            or_(JOBS.c.training_file == file_id, JOBS.c.validation_file == file_id),
        )
    ).scalars()
    datasets = conn.execute(
        select(DATASETS.c.id, DATASETS.c.file_ids).where(
            DATASETS.c.project_id == project_id, DATASETS.c.status == "processing"
        )
    )
    return [*jobs, *(row.id for row in datasets if file_id in row.file_ids)]


def is_blob_used(conn: Connection, sha256: str) -> bool:
    """Tell whether any file of any project has these bytes. Never shown to a tenant."""
    return bool(conn.execute(select(exists().where(FILES.c.sha256 == sha256))).scalar_one())
