"""Kept answers: one for each key, route and project; found for a day; swept in bounds."""

import msgspec
import pytest
from sqlalchemy import func, select

from purvey.errors import IdempotencyKeyInUseError
from purvey.store.database import Database
from purvey.store.idempotency import answers
from purvey.store.idempotency.answers import KEPT_S, KeptAnswer, Scope
from purvey.store.idempotency.sweeping import sweep_once
from purvey.store.tables import KEPT_ANSWERS
from purvey.testing.clock import FakeClock

OURS, THEIRS = "proj_ours", "proj_theirs"
HERE = Scope(project_id=OURS, route="POST /v1/files", key="k")
ONE = KeptAnswer(
    project_id=OURS,
    route=HERE.route,
    key="k",
    fingerprint="f" * 64,
    subject="file-1",
    status=200,
    body=b'{"id":"file-1"}',
    created_at=100.0,
)


def _keep(database: Database, **changes: object) -> None:
    answer = msgspec.structs.replace(ONE, **changes)
    database.write_now(lambda conn: answers.insert(conn, answer))


def _found(database: Database, scope: Scope = HERE, *, now: float = 101.0) -> KeptAnswer | None:
    return database.read_now(lambda conn: answers.find(conn, scope, now=now))


def _num_rows(database: Database) -> int:
    count = select(func.count()).select_from(KEPT_ANSWERS)
    return database.read_now(lambda conn: int(conn.execute(count).scalar_one()))


def test_an_answer_comes_back_whole(database: Database) -> None:
    _keep(database)
    assert _found(database) == ONE
    for changes in ({"project_id": THEIRS}, {"route": "POST /v1/datasets"}, {"key": "K"}):
        assert _found(database, msgspec.structs.replace(HERE, **changes)) is None
        _keep(database, **changes)  # a key of another scope is another key


def test_a_second_answer_is_refused_and_changes_nothing(database: Database) -> None:
    _keep(database)
    with pytest.raises(IdempotencyKeyInUseError):
        _keep(database, subject="file-2")
    assert _found(database) == ONE


def test_a_day_later_the_key_is_free(database: Database) -> None:
    _keep(database)
    assert _found(database, now=100.0 + KEPT_S - 1) == ONE
    assert _found(database, now=100.0 + KEPT_S) is None
    _keep(database, subject="file-2", created_at=100.0 + KEPT_S)
    assert _num_rows(database) == 1


@pytest.mark.row("NET-15")
async def test_a_clock_that_is_set_by_an_hour_moves_that_day_by_no_more(
    database: Database,
) -> None:
    clock, hour_s = FakeClock(), 3_600.0
    _keep(database, created_at=clock.now())
    for step_s in (hour_s, -2 * hour_s, hour_s):
        clock.step(step_s)
        assert await sweep_once(database, clock) == 0
        assert _found(database, now=clock.now()) is not None
        with pytest.raises(IdempotencyKeyInUseError):
            _keep(database, subject="file-2", created_at=clock.now())
    clock.step(-hour_s)
    clock.advance(KEPT_S + hour_s)
    assert await sweep_once(database, clock) == 1
    assert _found(database, now=clock.now()) is None


def test_an_answer_is_replaced_and_forgotten_by_its_subject(database: Database) -> None:
    _keep(database)
    database.write_now(lambda conn: answers.forget(conn, THEIRS, "file-1"))
    database.write_now(lambda conn: answers.replace(conn, OURS, "file-1", status=202, body=None))
    assert _found(database) == msgspec.structs.replace(ONE, status=202, body=None)
    database.write_now(lambda conn: answers.forget(conn, OURS, "file-1"))
    assert _found(database) is None


async def test_the_sweep_is_bounded_and_takes_the_old_only(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(answers, "SWEPT_AT_ONCE", 3)
    for number in range(5):
        _keep(database, key=f"old{number}", created_at=clock.now() - KEPT_S)
    _keep(database, key="young", created_at=clock.now() - KEPT_S + 1)
    assert [await sweep_once(database, clock) for _ in range(3)] == [3, 2, 0]
    assert _num_rows(database) == 1
