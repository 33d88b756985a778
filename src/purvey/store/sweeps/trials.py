"""Rows of trials: numbered from 0 without a gap, each with the job that it is.

The caller has checked whose sweep it is, and holds its lease.
"""

from collections.abc import Collection

from sqlalchemy import Connection, select

from purvey.contracts.records import JobRecord, TrialRecord
from purvey.contracts.sweep.messages import StopCause
from purvey.store.rows import from_row, to_row
from purvey.store.tables import JOBS, TRIALS


def insert(conn: Connection, record: TrialRecord) -> None:
    """Add a trial; its job is there."""
    conn.execute(TRIALS.insert(), to_row(record))


def of_sweep(conn: Connection, sweep_id: str) -> list[TrialRecord]:
    """List a sweep's trials by number."""
    found = conn.execute(
        select(TRIALS).where(TRIALS.c.sweep_id == sweep_id).order_by(TRIALS.c.number)
    )
    return [from_row(row, TrialRecord) for row in found]


def with_jobs(
    conn: Connection, sweep_id: str, *, but: Collection[int] = ()
) -> list[tuple[TrialRecord, JobRecord]]:
    """List a sweep's trials, all `but` some, with the job that each is, by number."""
    wanted = (TRIALS.c.sweep_id == sweep_id) & TRIALS.c.number.not_in(but)
    records = conn.execute(select(TRIALS).where(wanted).order_by(TRIALS.c.number)).all()
    found = conn.execute(
        select(JOBS)
        .join(TRIALS, TRIALS.c.job_id == JOBS.c.id)
        .where(wanted)
        .order_by(TRIALS.c.number)
    ).all()
    return [
        (from_row(record, TrialRecord), from_row(job, JobRecord))
        for record, job in zip(records, found, strict=True)
    ]


def stop(conn: Connection, sweep_id: str, number: int, cause: StopCause) -> None:
    """Note why the sweep ends a trial early."""
    one = (TRIALS.c.sweep_id == sweep_id) & (TRIALS.c.number == number)
    conn.execute(TRIALS.update().where(one).values(stopped=cause))


def hold(conn: Connection, job_id: str, artifact: str) -> bool:
    """Keep the model that a trial's job has made until the sweep knows the best.

    Returns:
        Whether the job is a trial.
    """
    mine = TRIALS.update().where(TRIALS.c.job_id == job_id)
    return conn.execute(mine.values(artifact=artifact)).rowcount > 0


def held(conn: Connection, sweep_id: str) -> list[str]:
    """List the digests of the models that a sweep's trials keep."""
    found = select(TRIALS.c.artifact).where(
        TRIALS.c.sweep_id == sweep_id, TRIALS.c.artifact.is_not(None)
    )
    return list(conn.execute(found).scalars())


def let_go(conn: Connection, sweep_id: str, *, numbers: Collection[int] | None = None) -> list[str]:
    """Give up the models of a sweep's trials, of these numbers if given; return their digests."""
    some = (TRIALS.c.sweep_id == sweep_id) & TRIALS.c.artifact.is_not(None)
    if numbers is not None:
        some &= TRIALS.c.number.in_(numbers)
    digests: list[str] = list(conn.execute(select(TRIALS.c.artifact).where(some)).scalars())
    conn.execute(TRIALS.update().where(some).values(artifact=None))
    return digests
