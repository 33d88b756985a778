"""Rows of job events: numbered from 1 without a gap, never changed."""

from collections.abc import Collection
from typing import Any, Literal

from sqlalchemy import Connection, func, select

from purvey.contracts.ids import new_id
from purvey.contracts.jobs import JobKind
from purvey.contracts.records import JobEventRecord
from purvey.store import jobs
from purvey.store.rows import Order, Page, from_row, page_rows, to_row
from purvey.store.tables import EVENTS, JOBS

Kind = Literal["message", "metrics"]
Level = Literal["info", "warn", "error"]


def append(
    conn: Connection,
    job_id: str,
    *,
    kind: Kind,
    level: Level,
    message: str,
    data: dict[str, Any],  # JSON values
    now: float,
    fence: int | None = None,
) -> JobEventRecord:
    """Add the next event of a job.

    Raises:
        StaleFencingTokenError: The job does not run under `fence`; nothing was added.
    """
    if fence is not None:
        jobs.guard(conn, job_id, fence)
    newest = select(func.coalesce(func.max(EVENTS.c.seq), 0)).where(EVENTS.c.job_id == job_id)
    event = JobEventRecord(
        id=new_id("ftevent-"),
        job_id=job_id,
        seq=conn.execute(newest).scalar_one() + 1,
        type=kind,
        level=level,
        message=message,
        data=data,
        created_at=now,
    )
    conn.execute(EVENTS.insert(), to_row(event))
    return event


def page(
    conn: Connection,
    job_id: str,
    *,
    after: str | None,
    limit: int,
    order: Order = "desc",
    type: Kind | None = None,  # noqa: A002 (the record's own name for it)
) -> Page[JobEventRecord]:
    """List a job's events, of one type if given. The caller has checked whose job it is."""
    where = {"job_id": job_id, "type": type}
    return page_rows(
        conn, EVENTS, JobEventRecord, where=where, after=after, limit=limit, order=order
    )


def told_step(conn: Connection, job_id: str) -> int:
    """Return the step whose numbers were told last; 0 before the first."""
    newest = (
        select(EVENTS.c.data)
        .where(EVENTS.c.job_id == job_id, EVENTS.c.type == "metrics")
        .order_by(EVENTS.c.seq.desc())
        .limit(1)
    )
    step = (conn.execute(newest).scalar() or {}).get("step")
    return step if isinstance(step, int) else 0


def beyond(
    conn: Connection, position: int, *, kinds: Collection[JobKind], limit: int
) -> tuple[int, list[JobEventRecord]]:
    """List the events of all jobs of some kinds after a position, in order, and say the last one's.

    Positions grow with the commits: none is ever written before one that was seen.
    """
    found = conn.execute(
        select(EVENTS)
        .join(JOBS, JOBS.c.id == EVENTS.c.job_id)
        .where(EVENTS.c.position > position, JOBS.c.kind.in_(kinds))
        .order_by(EVENTS.c.position)
        .limit(limit)
    ).all()
    last = found[-1].position if found else position
    return last, [from_row(row, JobEventRecord) for row in found]


def newest(conn: Connection) -> int:
    """Return the position of the last event; 0 before the first."""
    last: int | None = conn.execute(select(func.max(EVENTS.c.position))).scalar_one()
    return last or 0


def since(
    conn: Connection, job_id: str, seq: int, *, limit: int | None = None
) -> list[JobEventRecord]:
    """List the events after number `seq`, in order, the first `limit` of them if given."""
    found = conn.execute(
        select(EVENTS)
        .where(EVENTS.c.job_id == job_id, EVENTS.c.seq > seq)
        .order_by(EVENTS.c.seq)
        .limit(limit)
    )
    return [from_row(row, JobEventRecord) for row in found]
