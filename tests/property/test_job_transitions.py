"""Random walks over job rows: only the written table's moves happen, and only under the lease.

The model is a status and a fence; the subject is the store. After every step the row must be
what the model says, whatever was tried.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from purvey.contracts.clock import SystemClock
from purvey.contracts.ids import DEFAULT_PROJECT, new_id
from purvey.contracts.jobs import TERMINAL, TRANSITIONS, JobStatus
from purvey.contracts.records import JobRecord
from purvey.errors import ConflictError, StaleFencingTokenError
from purvey.store import events, jobs, projects
from purvey.store.database import Database

STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)


@dataclass(frozen=True)
class Move:
    to: JobStatus
    fence_offset: int | None
    """None: without a fence; 0: the right one; else a stale or made-up one."""


@dataclass(frozen=True)
class Claim:
    pass


@dataclass(frozen=True)
class Renew:
    fence_offset: int


@dataclass(frozen=True)
class Tell:
    fence_offset: int | None


Step = Move | Claim | Renew | Tell
offsets = st.sampled_from([0, 0, -1, 1])
steps = st.one_of(
    st.builds(Move, st.sampled_from(STATUSES), st.one_of(st.none(), offsets)),
    st.just(Claim()),
    st.builds(Renew, offsets),
    st.builds(Tell, st.one_of(st.none(), offsets)),
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path_factory.mktemp('walks') / 'jobs.db'}"
    database = Database.open(url, clock=SystemClock())
    database.write_now(lambda conn: projects.ensure(conn, DEFAULT_PROJECT, name="d", now=0.0))
    yield database
    database.close()


@pytest.mark.parametrize("before", STATUSES)
@pytest.mark.parametrize("after", STATUSES)
def test_the_store_allows_exactly_the_written_moves(
    database: Database, before: JobStatus, after: JobStatus
) -> None:
    job = new_job(before, fence=1)
    database.write_now(lambda conn: jobs.insert(conn, job))
    if after in TRANSITIONS[before]:
        moved = database.write_now(lambda conn: jobs.move(conn, job.id, to=after, now=1.0))
        assert moved.status == after
        assert (moved.finished_at == 1.0) == (after in TERMINAL)
        database.write_now(lambda conn: retire(conn, moved))
    else:
        with pytest.raises(ConflictError):
            database.write_now(lambda conn: jobs.move(conn, job.id, to=after, now=1.0))
        assert database.read_now(lambda conn: jobs.find(conn, job.id)) == job
        database.write_now(lambda conn: retire(conn, job))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(walk=st.lists(steps, max_size=25))
def test_a_random_walk_stays_on_the_table_and_under_the_lease(
    database: Database, walk: list[Step]
) -> None:
    job = new_job("queued", fence=0)
    database.write_now(lambda conn: jobs.insert(conn, job))
    status: JobStatus = "queued"
    fence, num_events = 0, 0
    for step in walk:
        succeeded = attempt(database, job.id, step, fence)
        if isinstance(step, Claim):
            assert succeeded == (status == "queued")
            if succeeded:
                status, fence = "running", fence + 1
        elif isinstance(step, Move):
            allowed = step.to in TRANSITIONS[status] and not step.fence_offset
            assert succeeded == allowed, (status, step)
            status = step.to if allowed else status
        elif isinstance(step, Renew):
            assert succeeded == (status == "running" and step.fence_offset == 0)
        else:
            held = step.fence_offset is None or (status == "running" and step.fence_offset == 0)
            assert succeeded == held
            num_events += held
        found = database.read_now(lambda conn: jobs.find(conn, job.id))
        assert (found.status, found.fence) == (status, fence)
    told = database.read_now(lambda conn: events.since(conn, job.id, 0))
    assert [event.seq for event in told] == list(range(1, num_events + 1))
    last = database.read_now(lambda conn: jobs.find(conn, job.id))
    database.write_now(lambda conn: retire(conn, last))


def attempt(database: Database, job_id: str, step: Step, fence: int) -> bool:
    """Try a step; whether it was done."""
    try:
        return database.write_now(work_of(step, job_id, fence))
    except (ConflictError, StaleFencingTokenError):
        return False


def work_of(step: Step, job_id: str, fence: int) -> Callable[[Connection], bool]:
    def work(conn: Connection) -> bool:
        match step:
            case Claim():
                taken = jobs.claim(conn, lease="lease_1", now=1.0, lease_s=1.0)
                return taken is not None and taken.id == job_id
            case Move(to=to, fence_offset=offset):
                jobs.move(conn, job_id, to=to, now=1.0, fence=token(fence, offset))
            case Renew(fence_offset=offset):
                jobs.renew(conn, job_id, fence=fence + offset, now=1.0, lease_s=1.0)
            case Tell(fence_offset=offset):
                events.append(
                    conn,
                    job_id,
                    kind="message",
                    level="info",
                    message="",
                    data={},
                    now=1.0,
                    fence=token(fence, offset),
                )
        return True

    return work


def token(fence: int, offset: int | None) -> int | None:
    return None if offset is None else fence + offset


def retire(conn: Connection, job: JobRecord) -> None:
    """Take a job out of the queue, so that the next walk claims its own."""
    if job.status == "queued":
        jobs.move(conn, job.id, to="cancelled", now=1.0)


def new_job(status: JobStatus, *, fence: int) -> JobRecord:
    return JobRecord(
        id=new_id("job_"),
        project_id=DEFAULT_PROJECT,
        key_id="key_0",
        api="training",
        kind="training",
        status=status,
        created_at=0.0,
        recipe={},
        recipe_digest="",
        fence=fence,
    )
