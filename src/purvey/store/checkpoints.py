"""Rows of checkpoints: folders that are complete on disk."""

from sqlalchemy import Connection, func, select

from purvey.contracts.records import CheckpointRecord
from purvey.store import jobs
from purvey.store.rows import Order, Page, from_row, page_rows, to_row
from purvey.store.tables import CHECKPOINTS


def insert(conn: Connection, record: CheckpointRecord, *, fence: int | None = None) -> None:
    """Add a checkpoint.

    Raises:
        StaleFencingTokenError: The job does not run under `fence`; nothing was added.
    """
    if fence is not None:
        jobs.guard(conn, record.job_id, fence)
    conn.execute(CHECKPOINTS.insert(), to_row(record))


def forget(conn: Connection, job_id: str, *, fence: int) -> None:
    """Delete a job's checkpoints, whose folders are gone.

    Raises:
        StaleFencingTokenError: The job does not run under `fence`; nothing was deleted.
    """
    jobs.guard(conn, job_id, fence)
    conn.execute(CHECKPOINTS.delete().where(CHECKPOINTS.c.job_id == job_id))


def furthest_step(conn: Connection, job_id: str) -> int:
    """Return the highest step that the job has saved; -1 before the first."""
    highest = select(func.max(CHECKPOINTS.c.step)).where(CHECKPOINTS.c.job_id == job_id)
    found: int | None = conn.execute(highest).scalar()
    return -1 if found is None else found


def page(
    conn: Connection, job_id: str, *, after: str | None, limit: int, order: Order = "desc"
) -> Page[CheckpointRecord]:
    """List a job's checkpoints. The caller has checked whose job it is."""
    where = {"job_id": job_id}
    return page_rows(
        conn, CHECKPOINTS, CheckpointRecord, where=where, after=after, limit=limit, order=order
    )


def newest(conn: Connection, job_id: str) -> list[CheckpointRecord]:
    """List a job's checkpoints, the newest first, for choosing one to resume from."""
    found = conn.execute(
        select(CHECKPOINTS)
        .where(CHECKPOINTS.c.job_id == job_id)
        .order_by(CHECKPOINTS.c.position.desc())
    )
    return [from_row(row, CheckpointRecord) for row in found]
