"""Rows of jobs: the only place where a job's status changes.

Every move is checked against `contracts.jobs.TRANSITIONS`, and every write on behalf of a
worker against the fencing token of its lease. Functions without `project_id` are for the
supervisor, never for a request.
"""

from collections.abc import Collection
from typing import Literal

from sqlalchemy import Connection, func, select

from purvey.contracts.jobs import TERMINAL, JobApi, JobKind, JobStatus, may_move
from purvey.contracts.records import JobRecord
from purvey.errors import ConflictError, NotFoundError, StaleFencingTokenError
from purvey.store.rows import Order, Page, from_row, get_row, page_rows, to_row
from purvey.store.tables import JOBS


def insert(conn: Connection, record: JobRecord) -> None:
    """Add a job."""
    conn.execute(JOBS.insert(), to_row(record))


def get(conn: Connection, project_id: str, job_id: str) -> JobRecord:
    """Return a job of the project.

    Raises:
        NotFoundError: No such job, or another project's.
    """
    where = {"project_id": project_id, "id": job_id}
    return get_row(conn, JOBS, JobRecord, where=where, missing=_missing(job_id))


def find(conn: Connection, job_id: str) -> JobRecord:
    """Return a job of whatever project.

    Raises:
        NotFoundError: No such job.
    """
    return get_row(conn, JOBS, JobRecord, where={"id": job_id}, missing=_missing(job_id))


def page(
    conn: Connection,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    order: Order = "desc",
    api: JobApi | None = None,
    status: JobStatus | None = None,
) -> Page[JobRecord]:
    """List the project's jobs, of one resource or one status if given."""
    where = {"project_id": project_id, "api": api, "status": status}
    return page_rows(conn, JOBS, JobRecord, where=where, after=after, limit=limit, order=order)


def claim(
    conn: Connection,
    *,
    lease: str,
    now: float,
    lease_s: float,
    kinds: Collection[JobKind] = ("training", "dataset"),
    excluding: Collection[str] = (),
) -> JobRecord | None:
    """Take the queued job whose turn it is under a new lease, with the next attempt and fence.

    Projects take turns: the one with the fewest running jobs of these kinds comes first, of
    these the one that started a job longest ago; of its jobs, the oldest.

    Args:
        conn: The transaction.
        lease: Name of the new lease.
        now: Epoch seconds.
        lease_s: How long the lease lasts without renewal.
        kinds: Which jobs to look at.
        excluding: Jobs to leave alone, because they wait before another attempt.

    Returns:
        The job, now running, or None when nothing is queued.
    """
    job = _next(conn, kinds, excluding)
    if job is None:
        return None
    return move(
        conn,
        job.id,
        to="running",
        now=now,
        attempt=job.attempt + 1,
        new_fence=job.fence + 1,
        started_at=now if job.started_at is None else job.started_at,
        lease=lease,
        lease_expires_at=now + lease_s,
    )


def renew(conn: Connection, job_id: str, *, fence: int, now: float, lease_s: float) -> None:
    """Prolong a lease.

    Raises:
        StaleFencingTokenError: The job does not run under this fence any more.
    """
    changed = conn.execute(
        JOBS.update()
        .where(JOBS.c.id == job_id, JOBS.c.fence == fence, JOBS.c.status == "running")
        .values(lease_expires_at=now + lease_s)
    )
    if changed.rowcount == 0:
        raise _stale(job_id)


def count_anew(conn: Connection, job_id: str) -> None:
    """Take the attempt that runs for the first: the job has come further than any before."""
    conn.execute(JOBS.update().where(JOBS.c.id == job_id).values(attempt=1))


def guard(conn: Connection, job_id: str, fence: int) -> None:
    """Check that the job runs under this fence.

    Raises:
        StaleFencingTokenError: It does not; the caller lost its lease and must stop.
    """
    held = select(JOBS.c.id).where(
        JOBS.c.id == job_id, JOBS.c.fence == fence, JOBS.c.status == "running"
    )
    if conn.execute(held).one_or_none() is None:
        raise _stale(job_id)


def move(
    conn: Connection,
    job_id: str,
    *,
    to: JobStatus,
    now: float,
    fence: int | None = None,
    new_fence: int | None = None,
    **changes: object,
) -> JobRecord:
    """Change a job's status along the written table.

    Leaving `running` drops the lease; a terminal status sets `finished_at`.

    Args:
        conn: The transaction.
        job_id: The job.
        to: The new status.
        now: Epoch seconds.
        fence: The worker's fencing token; None for the owner's and the system's own moves.
        new_fence: The fence from now on.
        changes: Other fields of the record to set.

    Raises:
        NotFoundError: No such job.
        ConflictError: The table has no such move; nothing was changed.
        StaleFencingTokenError: The job has another fence; nothing was changed.
    """
    job = find(conn, job_id)
    if fence is not None and fence != job.fence:
        raise _stale(job_id)
    if not may_move(job.status, to):
        raise ConflictError(f"job {job_id!r} is {job.status!r} and cannot become {to!r}.")
    values: dict[str, object] = {"status": to}
    if to != "running":
        values |= {"lease": None, "lease_expires_at": None}
    if to in TERMINAL:
        values["finished_at"] = now
    if new_fence is not None:
        values["fence"] = new_fence
    conn.execute(JOBS.update().where(JOBS.c.id == job_id).values(values | changes))
    return find(conn, job_id)


def want(
    conn: Connection, project_id: str, job_id: str, wanted: Literal["run", "pause", "cancel"]
) -> JobRecord:
    """Note what the owner wants of a job, for its supervisor to see.

    Raises:
        NotFoundError: No such job, or another project's.
    """
    conn.execute(
        JOBS.update()
        .where(JOBS.c.project_id == project_id, JOBS.c.id == job_id)
        .values(wanted=wanted)
    )
    return get(conn, project_id, job_id)


def hold(conn: Connection, project_id: str, job_id: str) -> JobRecord:
    """Make the pause of a job that waits for room its owner's: it does not go on by itself.

    Raises:
        NotFoundError: No such job, or another project's.
    """
    conn.execute(
        JOBS.update()
        .where(JOBS.c.project_id == project_id, JOBS.c.id == job_id, JOBS.c.status == "paused")
        .values(wanted="pause", error=None)
    )
    return get(conn, project_id, job_id)


def expired(conn: Connection, now: float) -> list[JobRecord]:
    """List running jobs whose lease has run out, oldest first."""
    found = conn.execute(
        select(JOBS)
        .where(JOBS.c.status == "running", JOBS.c.lease_expires_at <= now)
        .order_by(JOBS.c.position)
    )
    return [from_row(row, JobRecord) for row in found]


def running(conn: Connection) -> list[JobRecord]:
    """List running jobs, oldest first."""
    found = conn.execute(select(JOBS).where(JOBS.c.status == "running").order_by(JOBS.c.position))
    return [from_row(row, JobRecord) for row in found]


def starved(conn: Connection) -> list[JobRecord]:
    """List the jobs that wait for room on the disk, oldest first: paused, and not by an owner."""
    found = conn.execute(
        select(JOBS)
        .where(JOBS.c.status == "paused", JOBS.c.wanted == "run")
        .order_by(JOBS.c.position)
    )
    records = (from_row(row, JobRecord) for row in found)
    return [job for job in records if job.needed_bytes is not None]


def count_unfinished(conn: Connection, project_id: str) -> int:
    """Count the project's jobs that are not in a terminal status."""
    unfinished = select(func.count()).where(
        JOBS.c.project_id == project_id, JOBS.c.status.not_in(TERMINAL)
    )
    return conn.execute(unfinished).scalar_one()


def count_by_status(conn: Connection) -> dict[str, int]:
    """Count the jobs of all projects by status; a status that no job has is left out."""
    counts = select(JOBS.c.status, func.count().label("jobs")).group_by(JOBS.c.status)
    return {row.status: row.jobs for row in conn.execute(counts)}


def _next(
    conn: Connection, kinds: Collection[JobKind], excluding: Collection[str]
) -> JobRecord | None:
    others, project = JOBS.alias(), JOBS.c.project_id
    running = select(func.count()).where(
        others.c.project_id == project, others.c.status == "running", others.c.kind.in_(kinds)
    )
    last_start = select(func.coalesce(func.max(others.c.started_at), 0.0)).where(
        others.c.project_id == project, others.c.kind.in_(kinds)
    )
    oldest = func.min(JOBS.c.position)
    turns = (
        select(oldest)
        .where(JOBS.c.status == "queued", JOBS.c.kind.in_(kinds), JOBS.c.id.not_in(excluding))
        .group_by(project)
        .order_by(running.scalar_subquery(), last_start.scalar_subquery(), oldest)
        .limit(1)
    )
    position = conn.execute(turns).scalar_one_or_none()
    if position is None:
        return None
    row = conn.execute(select(JOBS).where(JOBS.c.position == position)).one()
    return from_row(row, JobRecord)


def _missing(job_id: str) -> NotFoundError:
    return NotFoundError(f"no job {job_id!r}.", param="job_id")


def _stale(job_id: str) -> StaleFencingTokenError:
    return StaleFencingTokenError(f"the lease of job {job_id!r} is held by another worker.")
