"""The meter: durable when it returns, each attempt once, any number of callers at once."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from purvey.contracts.records import UsageRecord
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
