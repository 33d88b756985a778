import asyncio
import threading

import pytest

from purvey.testing.clock import FakeClock
from purvey.testing.gate import Gate


async def test_a_closed_gate_holds_until_another_thread_opens_it() -> None:
    gate = Gate()
    await gate.passed()
    gate.close()
    waiting = [asyncio.create_task(gate.passed()) for _ in range(3)]
    async with asyncio.timeout(10):
        while gate.num_waiting < 3:  # noqa: ASYNC110 (the gate has no event for arrivals)
            await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    assert gate.num_waiting == 2
    opener = threading.Thread(target=gate.open)
    opener.start()
    await asyncio.gather(*waiting[1:])
    opener.join()
    assert gate.num_waiting == 0


def test_time_passes_only_by_hand() -> None:
    clock = FakeClock(start=100.0)
    assert (clock.now(), clock.now()) == (100.0, 100.0)
    before = clock.monotonic()
    clock.advance(2.5)
    clock.step_back(10)
    assert clock.now() == 92.5
    assert clock.monotonic() == before + 2.5
    with pytest.raises(ValueError, match="forwards"):
        clock.advance(-1)
