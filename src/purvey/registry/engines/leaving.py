"""Engines on their way out: they finish what they run, for as long as they are given."""

import asyncio
import math
from collections.abc import Coroutine, Iterator

from purvey.contracts.clock import Clock
from purvey.registry.engines.place import Place
from purvey.registry.engines.room import Room


class Departures:
    """Places whose engines end. Lives on one event loop.

    Args:
        room: Where what they held is given back.
        close_timeout_s: How long an engine may take to end once nobody uses it.
        clock: Source of time.
    """

    def __init__(self, room: Room, *, close_timeout_s: float, clock: Clock) -> None:
        self._room, self._close_timeout_s, self._clock = room, close_timeout_s, clock
        self._places: set[Place] = set()
        self._work: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Place]:
        """Yield those that have not ended."""
        return iter(list(self._places))

    def add(self, place: Place, *, patience_s: float) -> None:
        """Have a place's engine end: when nobody uses it any more, or the time has passed."""
        place.is_leaving = True
        self._places.add(place)
        self.start(self._close(place, patience_s=patience_s))
        self._room.tell()  # who waits in it for an adapter asks for another engine

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Do something that `ended` waits for."""
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def ended(self, *, patient: set[Place], timeout_s: float) -> None:
        """Wait until all have ended.

        Args:
            patient: Those that were told to leave in their own time, of which this is all now.
            timeout_s: How long.
        """
        if patient:
            await asyncio.wait(self._work, timeout=timeout_s)
        for place in patient:
            place.may_close.set()
            if place.loading is not None:
                place.loading.cancel()
        while self._work:
            await asyncio.gather(*self._work, return_exceptions=True)

    async def _close(self, place: Place, *, patience_s: float) -> None:
        is_patient = patience_s == math.inf
        deadline = self._clock.monotonic() + patience_s
        try:
            if place.loading is not None:
                if not is_patient:
                    place.loading.cancel()
                await asyncio.wait([place.loading])
            if place.num_users:
                await _wait_at_most(place.may_close, None if is_patient else patience_s)
            if place.engine is not None:
                left_s = max(0.0, deadline - self._clock.monotonic())
                await place.engine.close(timeout_s=min(left_s, self._close_timeout_s))
                place.engine = None
        finally:
            self._places.discard(place)
            self._room.give_back(place)


async def _wait_at_most(event: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
