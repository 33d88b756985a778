"""The writer: one commit for many, a savepoint for each, nothing told before it is on disk."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from purvey.errors import (
    InsufficientStorageError,
    InvalidValueError,
    StorageUnavailableError,
)
from purvey.store import projects
from purvey.store.database import Database
from purvey.store.tables import PROJECTS


def add(name: str) -> Callable[[Connection], str]:
    def work(conn: Connection) -> str:
        conn.execute(PROJECTS.insert(), {"id": name, "name": name, "created_at": 1.0})
        return name

    return work


def names(database: Database) -> set[str]:
    return database.read_now(lambda c: {row.id for row in c.execute(PROJECTS.select())})


class Held:
    """Keeps the writer busy until `release`, so that what follows shares one batch."""

    def __init__(self, database: Database) -> None:
        self._free, self._begun = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._running = self._pool.submit(database.write_now, self._wait)
        assert self._begun.wait(10)

    def release(self) -> None:
        self._free.set()
        self._running.result(10)
        self._pool.shutdown()

    def _wait(self, conn: Connection) -> None:
        self._begun.set()
        assert self._free.wait(10)


@pytest.mark.row("CRA-13")
def test_writing_is_durable_by_pragma(database: Database) -> None:
    def pragmas(conn: Connection) -> tuple[object, ...]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return tuple(conn.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names)

    assert database.write_now(pragmas) == ("wal", 2, 1, 5_000)


def test_reading_connections_cannot_write_or_checkpoint(database: Database) -> None:
    def pragmas(conn: Connection) -> tuple[object, object]:
        query_only = conn.exec_driver_sql("PRAGMA query_only").scalar_one()
        return query_only, conn.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar_one()

    assert database.read_now(pragmas) == (1, 0)
    with pytest.raises(StorageUnavailableError):
        database.read_now(add("a"))


async def test_waiting_writes_share_one_commit_and_each_gets_its_own_result(
    database: Database,
) -> None:
    held = Held(database)
    writes = [asyncio.create_task(database.write(add(f"p{i}"))) for i in range(20)]
    await asyncio.sleep(0)
    with_transaction: list[int] = []
    writes.append(asyncio.create_task(database.write(_note_total_changes(with_transaction))))
    await asyncio.sleep(0)
    held.release()
    results = await asyncio.gather(*writes)
    assert results[:20] == [f"p{i}" for i in range(20)]
    assert with_transaction == [20], "the twenty rows were in the transaction of the last piece"
    assert names(database) == {f"p{i}" for i in range(20)}


def _note_total_changes(into: list[int]) -> Callable[[Connection], str]:
    def work(conn: Connection) -> str:
        # Rows that another connection does not see yet are uncommitted ones of this batch.
        path = conn.exec_driver_sql("PRAGMA database_list").one()[2]
        outside = sqlite3.connect(path)
        committed = outside.execute("SELECT count(*) FROM projects").fetchone()[0]
        outside.close()
        mine = conn.exec_driver_sql("SELECT count(*) FROM projects").scalar_one()
        into.append(mine - committed)
        return "noted"

    return work


async def test_an_exception_undoes_its_own_piece_only(database: Database) -> None:
    def half_done(conn: Connection) -> None:
        add("undone")(conn)
        raise InvalidValueError("no", param="x")

    held = Held(database)
    writes = [asyncio.create_task(database.write(work)) for work in (add("a"), half_done, add("b"))]
    await asyncio.sleep(0)
    held.release()
    first, second, third = await asyncio.gather(*writes, return_exceptions=True)
    assert (first, third) == ("a", "b")
    assert isinstance(second, InvalidValueError)
    assert names(database) == {"a", "b"}


def test_a_broken_rule_is_raised_to_its_caller(database: Database) -> None:
    database.write_now(add("a"))
    with pytest.raises(IntegrityError) as caught:
        database.write_now(add("a"))
    assert "'a'" not in str(caught.value), "values of users are not in messages"


async def test_nothing_is_told_before_the_commit(database: Database, file: Path) -> None:
    committed: list[int] = []

    def look() -> None:
        outside = sqlite3.connect(file)
        committed.append(outside.execute("SELECT count(*) FROM projects").fetchone()[0])
        outside.close()

    for i in range(5):
        await database.write(add(f"p{i}"))
        look()
    assert committed == [1, 2, 3, 4, 5]


def test_a_full_disk_is_said_and_stores_nothing(database: Database) -> None:
    database.write_now(lambda c: c.exec_driver_sql("PRAGMA max_page_count=1").close())

    def too_much(conn: Connection) -> None:
        for i in range(10_000):
            add(f"p{i}")(conn)

    with pytest.raises(InsufficientStorageError):
        database.write_now(too_much)
    assert names(database) == set()


def test_the_writer_goes_on_after_a_full_disk(database: Database) -> None:
    test_a_full_disk_is_said_and_stores_nothing(database)
    database.write_now(lambda c: c.exec_driver_sql("PRAGMA max_page_count=1000000").close())
    assert database.write_now(add("after")) == "after"


def test_a_piece_that_ends_the_transaction_loses_the_batch_but_not_the_writer(
    database: Database,
) -> None:
    def meddle(conn: Connection) -> None:
        add("lost")(conn)
        conn.exec_driver_sql("ROLLBACK").close()

    with pytest.raises(StorageUnavailableError):
        database.write_now(meddle)
    assert database.write_now(add("kept")) == "kept"
    assert names(database) == {"kept"}


def test_a_locked_database_is_unavailable_and_comes_back(file: Path) -> None:
    from purvey.store import sqlite
    from purvey.store.writer import Writer
    from purvey.testing.clock import FakeClock

    engine = sqlite.writing_engine(file)

    def impatient() -> Connection:
        connection = engine.connect()
        connection.exec_driver_sql("PRAGMA busy_timeout=0").close()
        connection.rollback()
        return connection

    writer = Writer(impatient, clock=FakeClock())
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailableError):
        writer.write_now(add("a"))
    other.execute("ROLLBACK")
    other.close()
    assert writer.write_now(add("b")) == "b"
    writer.close()


async def test_a_cancelled_caller_does_not_disturb_the_others(database: Database) -> None:
    held = Held(database)
    gone = asyncio.create_task(database.write(add("gone")))
    stays = asyncio.create_task(database.write(add("stays")))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    held.release()
    assert await stays == "stays"
    assert names(database) == {"stays"}, "work whose caller left before it began is not done"


def test_closing_commits_what_is_queued(database: Database, file: Path) -> None:
    held = Held(database)
    with ThreadPoolExecutor(4) as pool:
        queued = [pool.submit(database.write_now, add(f"p{i}")) for i in range(4)]
        held.release()
        assert {future.result(10) for future in queued} == {f"p{i}" for i in range(4)}
    database.close()
    database.close()
    outside = sqlite3.connect(file)
    assert outside.execute("SELECT count(*) FROM projects").fetchone()[0] == 4
    outside.close()
    assert not Path(f"{file}-wal").exists(), "the last connection folds the log into the file"


async def test_a_closed_database_says_so(database: Database) -> None:
    database.close()
    with pytest.raises(StorageUnavailableError):
        await database.write(add("a"))
    with pytest.raises(StorageUnavailableError):
        await database.read(projects_count)


def projects_count(conn: Connection) -> int:
    return len(conn.execute(PROJECTS.select()).all())


async def test_reads_see_what_was_written(database: Database) -> None:
    for i in range(10):
        await database.write(add(f"p{i}"))
        assert await database.read(projects_count) == i + 1


def test_ensuring_a_project_twice_keeps_the_first(database: Database) -> None:
    first = database.write_now(lambda c: projects.ensure(c, "p", name="one", now=1.0))
    again = database.write_now(lambda c: projects.ensure(c, "p", name="two", now=2.0))
    assert first == again == database.read_now(lambda c: projects.get(c, "p"))
