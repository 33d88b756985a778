"""The meter: durable when it returns, each attempt once, any number of callers at once."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from purvey import failpoints
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import UsageRecord
from purvey.errors import InsufficientStorageError, StorageUnavailableError
from purvey.meter import ledger
from purvey.meter.ledger import Meter
from purvey.store import projects
from purvey.store.database import Database
from purvey.testing.clock import FakeClock


@pytest.fixture
def meter(database: Database) -> Meter:
    database.write_now(lambda c: projects.ensure(c, "proj_a", name="a", now=1.0))
    return Meter(database, FakeClock())


def usage(i: int, *, attempt: int = 1) -> UsageRecord:
    return UsageRecord(
        request_id=f"req_{i}",
        attempt=attempt,
        project_id="proj_a",
        key_id="key_1",
        kind="chat",
        model="m",
        input_tokens=i,
        output_tokens=1,
        created_at=10.0,
    )


async def test_a_row_is_on_disk_when_recording_returns(meter: Meter, file: Path) -> None:
    await meter.record(usage(1))
    outside = sqlite3.connect(file)
    assert outside.execute("SELECT request_id FROM usage_ledger").fetchall() == [("req_1",)]
    outside.close()


async def test_many_callers_at_once_lose_and_double_nothing(meter: Meter) -> None:
    records = [usage(i) for i in range(200)]
    await asyncio.gather(*(meter.record(record) for record in [*records, *records]))
    (total,) = await meter.summary("proj_a", by="model")
    assert total.requests == 200
    assert total.input_tokens == sum(range(200))


async def test_sums_are_the_projects_own(meter: Meter) -> None:
    await meter.record(usage(1))
    assert await meter.summary("proj_b", by="kind") == []
    assert [total.group for total in await meter.summary("proj_a", by="day")] == ["1970-01-01"]
    assert await meter.summary("proj_a", since=11.0, by="kind") == []
    assert await meter.summary("proj_a", until=10.0, by="kind") == []


async def test_a_caller_that_is_cancelled_while_the_store_is_busy_leaves_its_row(
    meter: Meter, database: Database
) -> None:
    is_free = threading.Event()
    holding = asyncio.create_task(database.write(lambda _: is_free.wait()))
    recording = asyncio.create_task(meter.record(usage(1)))
    await asyncio.sleep(0)
    recording.cancel()
    await asyncio.sleep(0)
    is_free.set()
    await holding
    with pytest.raises(asyncio.CancelledError):
        await recording
    (total,) = await meter.summary("proj_a", by="model")
    assert total.requests == 1


@pytest.fixture
def full_disk(meter: Meter) -> Iterator[None]:
    failpoints.arm("db.commit=enospc#1+")
    yield
    failpoints.arm("")


def on_disk(file: Path) -> list[str]:
    outside = sqlite3.connect(file)
    found = [row[0] for row in outside.execute("SELECT request_id FROM usage_ledger")]
    outside.close()
    return found


async def test_rows_of_a_full_disk_are_owed_and_written_once_there_is_room(
    meter: Meter, file: Path, full_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "RETRY_S", 0.001)
    records = [usage(i) for i in range(300)]
    await asyncio.gather(*(meter.record(record) for record in [*records, records[0]]))
    assert (meter.num_owed, on_disk(file)) == (301, [])
    paying = asyncio.create_task(meter.pay_back())
    await asyncio.sleep(0.05)
    assert meter.num_owed == 301
    failpoints.arm("")
    while meter.num_owed:  # noqa: ASYNC110 (the store is in a thread)
        await asyncio.sleep(0.001)
    paying.cancel()
    assert sorted(on_disk(file)) == sorted(record.request_id for record in records)


async def test_a_row_that_cannot_even_be_owed_is_refused_before_the_work(
    meter: Meter, full_disk: None
) -> None:
    meter._owed.extend(usage(i) for i in range(LIMITS.owed_usage_rows - 1))
    meter.check_room()
    await meter.record(usage(10**6))
    with pytest.raises(InsufficientStorageError, match="wait to be written"):
        meter.check_room()


async def test_what_is_owed_at_the_end_is_written_or_told(
    meter: Meter, file: Path, full_disk: None, caplog: pytest.LogCaptureFixture
) -> None:
    await meter.record(usage(7))
    with caplog.at_level(logging.ERROR, "purvey.meter"):
        await meter.close()
    [told] = [vars(r) for r in caplog.records if r.getMessage() == "usage.unwritten"]
    assert (told["request_id"], told["text"]) == ("req_7", "input_tokens=7, output_tokens=1")
    failpoints.arm("")
    await meter.close()
    assert on_disk(file) == ["req_7"]


async def test_a_disk_that_breaks_is_no_full_disk(meter: Meter, full_disk: None) -> None:
    failpoints.arm("db.commit=eio")
    with pytest.raises(StorageUnavailableError):
        await meter.record(usage(1))
    assert meter.num_owed == 0
