"""Rows of dataset versions; the prepared tables are artifacts."""

from typing import Any, Literal

from sqlalchemy import Connection, or_, select

from purvey.contracts.jobs import TERMINAL
from purvey.contracts.records import DatasetRecord
from purvey.errors import NotFoundError
from purvey.store.rows import OwnedRows, from_row, get_row
from purvey.store.tables import DATASETS, JOBS

_ROWS = OwnedRows(table=DATASETS, record_type=DatasetRecord, noun="dataset")
insert, get, page, delete = _ROWS.insert, _ROWS.get, _ROWS.page, _ROWS.delete


def of_job(conn: Connection, job_id: str) -> DatasetRecord:
    """Return the dataset that a job builds, for the supervisor.

    Raises:
        NotFoundError: The job builds no dataset.
    """
    missing = NotFoundError(f"job {job_id!r} builds no dataset.")
    return get_row(conn, DATASETS, DatasetRecord, where={"job_id": job_id}, missing=missing)


def family(conn: Connection, project_id: str, dataset_id: str) -> list[DatasetRecord]:
    """Return all versions of what a dataset is one of, the first made first.

    Raises:
        NotFoundError: No such dataset, or another project's.
    """
    record = get(conn, project_id, dataset_id)
    first = record.family or record.id
    found = (
        select(DATASETS)
        .where(
            DATASETS.c.project_id == project_id,
            or_(DATASETS.c.id == first, DATASETS.c.family == first),
        )
        .order_by(DATASETS.c.position)
    )
    return [from_row(row, DatasetRecord) for row in conn.execute(found)]


def references(conn: Connection, project_id: str, dataset_id: str) -> list[str]:
    """List ids of the project's unfinished jobs that make or read the dataset."""
    found = select(JOBS.c.id).where(
        JOBS.c.project_id == project_id,
        JOBS.c.dataset_id == dataset_id,
        JOBS.c.status.not_in(TERMINAL),
    )
    return list(conn.execute(found).scalars())


def finish(
    conn: Connection,
    dataset_id: str,
    *,
    status: Literal["ready", "failed"],
    artifact: str | None = None,
    manifest: dict[str, Any] | None = None,  # DatasetManifest as JSON
    error: dict[str, Any] | None = None,  # code, message, param
) -> None:
    """Record how the preparation ended, for the supervisor.

    Raises:
        NotFoundError: No such dataset; it was deleted meanwhile.
    """
    values = {"status": status, "artifact": artifact, "manifest": manifest, "error": error}
    changed = conn.execute(DATASETS.update().where(DATASETS.c.id == dataset_id).values(values))
    if changed.rowcount == 0:
        raise _ROWS.missing(dataset_id)
