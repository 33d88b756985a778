"""Rows of uploaded files; the bytes are blobs."""

from sqlalchemy import Connection, exists, or_, select

from purvey.contracts.jobs import TERMINAL
from purvey.contracts.records import FileRecord
from purvey.errors import NotFoundError
from purvey.store.rows import Order, Page, delete_row, get_row, page_rows, to_row
from purvey.store.tables import DATASETS, FILES, JOBS


def insert(conn: Connection, record: FileRecord) -> None:
    """Add a file."""
    conn.execute(FILES.insert(), to_row(record))


def get(conn: Connection, project_id: str, file_id: str) -> FileRecord:
    """Return a file of the project.

    Raises:
        NotFoundError: No such file, or another project's.
    """
    where = {"project_id": project_id, "id": file_id}
    return get_row(conn, FILES, FileRecord, where=where, missing=_missing(file_id))


def page(
    conn: Connection,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    order: Order = "desc",
    purpose: str | None = None,
) -> Page[FileRecord]:
    """List the project's files, of one purpose if given."""
    where = {"project_id": project_id, "purpose": purpose}
    return page_rows(conn, FILES, FileRecord, where=where, after=after, limit=limit, order=order)


def delete(conn: Connection, project_id: str, file_id: str) -> None:
    """Remove the row; its blob may go once `is_blob_used` says no.

    Raises:
        NotFoundError: No such file, or another project's.
    """
    where = {"project_id": project_id, "id": file_id}
    delete_row(conn, FILES, where=where, missing=_missing(file_id))


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


def _missing(file_id: str) -> NotFoundError:
    return NotFoundError(f"no file {file_id!r}.", param="file_id")
