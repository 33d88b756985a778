"""Any sequence of moves, claims and renewals leaves a job that the table can explain."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Connection

from purvey.contracts.ids import new_id
from purvey.contracts.jobs import TERMINAL, TRANSITIONS, JobStatus
from purvey.contracts.records import JobRecord
from purvey.errors import ConflictError
from purvey.store import jobs, projects, schema
from purvey.store.database import Database
from purvey.testing.clock import FakeClock

STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)
STEPS = st.lists(st.sampled_from([*STATUSES, "claim"]), max_size=12)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    folder = tmp_path_factory.mktemp("moves")
    schema.prepare(folder / "first.db")
    copy = Path(shutil.copy(folder / "first.db", folder / "purvey.db"))
    opened = Database.open(f"sqlite:///{copy}", clock=FakeClock())
    opened.write_now(lambda c: projects.ensure(c, "proj_a", name="a", now=1.0))
    yield opened
    opened.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(start=st.sampled_from(["validating_files", "queued"]), steps=STEPS)
def test_every_history_is_a_path_of_the_table(
    database: Database, start: JobStatus, steps: list[str]
) -> None:
    database.write_now(lambda conn: _play(conn, start, steps))


def _play(conn: Connection, start: JobStatus, steps: list[str]) -> None:
    job = _new(start)
    jobs.insert(conn, job)
    for now, step in enumerate(steps, start=10):
        before = jobs.find(conn, job.id)
        if step == "claim":
            _claim(conn, before, float(now))
        else:
            _move(conn, before, next(s for s in STATUSES if s == step), float(now))
        _check(before, jobs.find(conn, job.id))
    if jobs.find(conn, job.id).status == "queued":  # leave nothing to claim for the next example
        jobs.move(conn, job.id, to="cancelled", now=99.0)


def _claim(conn: Connection, before: JobRecord, now: float) -> None:
    claimed = jobs.claim(conn, lease="lease_1", now=now, lease_s=5.0)
    assert (claimed is not None) == (before.status == "queued")


def _move(conn: Connection, before: JobRecord, to: JobStatus, now: float) -> None:
    if to in TRANSITIONS[before.status]:
        assert jobs.move(conn, before.id, to=to, now=now).status == to
    else:
        with pytest.raises(ConflictError):
            jobs.move(conn, before.id, to=to, now=now)
        assert jobs.find(conn, before.id) == before


def _check(before: JobRecord, after: JobRecord) -> None:
    assert after.fence >= before.fence
    assert after.attempt >= before.attempt
    assert (after.finished_at is not None) == (after.status in TERMINAL)
    assert after.lease is None or after.status == "running"
    if before.status in TERMINAL:
        assert after == before


def _new(status: JobStatus) -> JobRecord:
    return JobRecord(
        id=new_id("job_"),
        project_id="proj_a",
        key_id="key_1",
        api="training",
        kind="training",
        status=status,
        created_at=1.0,
        recipe={},
        recipe_digest="0" * 64,
    )
