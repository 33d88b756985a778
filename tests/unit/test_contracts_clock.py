"""Time: seconds since the epoch in UTC, whatever the machine calls its hours."""

import logging
import time
from collections.abc import Iterator

import pytest

from purvey.contracts.clock import SystemClock, iso
from purvey.telemetry.logs import event_of

ZONES = ["UTC", "Asia/Kolkata", "America/St_Johns", "Pacific/Kiritimati", "Europe/Berlin", "XST+13"]
MOMENTS = {
    1_750_000_000.0: "2025-06-15T15:06:40.000Z",
    1_774_745_999.999: "2026-03-29T00:59:59.999Z",  # before an hour that Berlin leaves out
    1_774_746_000.0: "2026-03-29T01:00:00.000Z",
    1_792_890_000.5: "2026-10-25T01:00:00.500Z",  # in an hour that Berlin has twice
    1_483_228_799.0: "2016-12-31T23:59:59.000Z",  # before a leap second, which has no number
    1_483_228_800.0: "2017-01-01T00:00:00.000Z",
}


@pytest.fixture
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Let the machine be elsewhere."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


@pytest.mark.row("NET-15")
@pytest.mark.parametrize("zone", ZONES, indirect=True)
def test_moments_are_written_in_utc_wherever_the_machine_is(zone: str) -> None:
    assert {moment: iso(moment) for moment in MOMENTS} == MOMENTS
    record = logging.makeLogRecord({"name": "purvey.x", "msg": "x.happened", "created": 1.5})
    assert event_of(record)["time"] == "1970-01-01T00:00:01.500Z"


@pytest.mark.row("NET-15")
def test_a_change_of_zone_moves_neither_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    before = (clock.now(), clock.monotonic())
    with monkeypatch.context() as elsewhere:
        for name in ZONES:
            elsewhere.setenv("TZ", name)
            time.tzset()
            now = (clock.now(), clock.monotonic())
            assert 0 <= now[0] - before[0] < 600
            assert 0 <= now[1] - before[1] < 600
    time.tzset()
