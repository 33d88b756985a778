"""Who gets memory next: a bounded queue before a budget in bytes, and who has to leave for it.

The first in the queue alone takes room, so a large model is not passed by small ones for ever.
Idle engines leave, the least recently used first. Where nobody is idle for `yield_after_s`, the
engine that was loaded longest ago takes nothing new: it leaves when what it runs has ended, and
who asks for it meanwhile stands in the queue. So every model of more than fit has its turn.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol

from purvey.contracts.limits import LIMITS
from purvey.errors import CapacityError, SettingError
from purvey.registry.engines.memory import size
from purvey.registry.engines.place import EngineLimits, Place
from purvey.telemetry import metrics

Reason = Literal["room", "idle", "stopped", "replaced"]
"""Why an engine has to leave."""


class Evict(Protocol):
    """Lets a place's engine go, as soon as nobody uses it, and gives its room back then."""

    def __call__(self, place: Place, *, reason: Reason) -> None:
        """Let it go; returns at once."""
        ...


class Room:
    """The memory of all engines.

    Invariants: holders hold at most `memory_bytes`, what engines turned out to take beyond
    their estimate aside; at most `max_loaded` hold any.

    Args:
        limits: The budget, and how patient the queue is.
        evict: Lets an engine go.
    """

    def __init__(self, limits: EngineLimits, *, evict: Evict) -> None:
        self._limits, self._evict = limits, evict
        self._holders: list[Place] = []
        self._queue: list[Place] = []
        self._news = asyncio.Event()

    @property
    def held_bytes(self) -> int:
        """What all engines take."""
        return sum(place.held_bytes for place in self._holders)

    async def take(self, place: Place, num_bytes: int, explain: Callable[[], str]) -> None:
        """Wait until there is room for an engine, and hold it for its place.

        Args:
            place: Who asks.
            num_bytes: How much.
            explain: The arithmetic, for a refusal.

        Raises:
            SettingError: It would not fit if it were alone.
            CapacityError: Pinned models leave too little; too many wait; or none became idle.
        """
        self.require_possible(place, num_bytes, explain)
        if len(self._queue) >= LIMITS.waiting_models:
            raise CapacityError(f"{len(self._queue)} models wait for room in memory.")
        self._queue.append(place)
        metrics.MODELS_WAITING.set(len(self._queue))
        try:
            async with asyncio.timeout(self._limits.room_wait_s):
                await self._wait_for(place, num_bytes)
        except TimeoutError:
            raise CapacityError(
                f"no room in memory for the model {place.key.model!r}: all others are in use.",
                hint="Try again soon, or raise model_memory_bytes and max_loaded_models.",
            ) from None
        finally:
            self._queue.remove(place)
            metrics.MODELS_WAITING.set(len(self._queue))
            self.tell()

    def require_possible(self, place: Place, num_bytes: int, explain: Callable[[], str]) -> None:
        """Refuse what could not be held if all others that may leave had left.

        Raises:
            SettingError: It would not fit if it were alone.
            CapacityError: Pinned models leave too little.
        """
        budget = self._limits.memory_bytes
        if num_bytes > budget:
            raise SettingError(
                f"the model {place.key.model!r} does not fit: {explain()}, and model_memory_bytes "
                f"is {size(budget)}.",
                param="model",
                hint="Raise model_memory_bytes (PURVEY_MODEL_MEMORY_BYTES), lower kv_cache_bytes, "
                "or serve it in a smaller precision.",
            )
        pinned = [p for p in self._holders if p.is_pinned and not p.is_leaving and p is not place]
        if self._missing(num_bytes, pinned) != (0, 0):
            raise CapacityError(
                f"the model {place.key.model!r} does not fit beside those that are pinned: "
                f"{explain()}, pinned are {size(sum(p.held_bytes for p in pinned))} of "
                f"{size(budget)}.",
                hint="Unpin one, or raise model_memory_bytes (PURVEY_MODEL_MEMORY_BYTES).",
            )

    def resize(self, place: Place, num_bytes: int) -> None:
        """Correct what a holder takes; idle engines leave where that is more than there is."""
        place.held_bytes = num_bytes
        self._clear(0)
        self.tell()

    def give_back(self, place: Place) -> None:
        """Hold nothing for a place any more."""
        if place in self._holders:
            self._holders.remove(place)
        place.held_bytes = 0
        self.tell()

    def tell(self) -> None:
        """Have the first in the queue look again: somebody is idle, or something was given back."""
        metrics.MODEL_MEMORY.set(self.held_bytes)
        self._news.set()
        self._news = asyncio.Event()

    def check(self) -> None:
        """Verify the invariants."""
        assert len(self._holders) <= self._limits.max_loaded, "more engines than places"  # noqa: S101
        assert len(set(map(id, self._holders))) == len(self._holders), "room held twice"  # noqa: S101
        assert all(p.held_bytes for p in self._holders), "a holder of nothing"  # noqa: S101

    async def _wait_for(self, place: Place, num_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        while self._queue[0] is not place:
            await self._news.wait()
        yield_at = loop.time() + self._limits.yield_after_s
        while not self._fits(num_bytes):
            news = self._news
            self._clear(num_bytes, is_urgent=loop.time() >= yield_at)
            if self._fits(num_bytes):
                break
            patience = None if loop.time() >= yield_at else yield_at
            try:
                async with asyncio.timeout_at(patience):
                    await news.wait()
            except TimeoutError:
                continue
        place.held_bytes = num_bytes
        self._holders.append(place)

    def _fits(self, num_bytes: int) -> bool:
        for place in [p for p in self._holders if p.engine is not None and not p.engine.is_alive]:
            self.give_back(place)  # who still uses it may be who waits
        return self._missing(num_bytes, self._holders) == (0, 0)

    def _missing(self, num_bytes: int, places: Iterable[Place]) -> tuple[int, int]:
        """Return bytes and places that are missing beside these for one more engine."""
        held = list(places)
        wanted = sum(p.held_bytes for p in held) + num_bytes - self._limits.memory_bytes
        return max(0, wanted), max(0, len(held) + bool(num_bytes) - self._limits.max_loaded)

    def _clear(self, num_bytes: int, *, is_urgent: bool = False) -> None:
        """Let as many engines go as are needed, or none where that would not be enough."""
        staying = [place for place in self._holders if not place.is_leaving]
        chosen: list[Place] = []
        for place in self._candidates(staying, is_urgent=is_urgent):
            if self._missing(num_bytes, staying) == (0, 0):
                break
            staying.remove(place)
            chosen.append(place)
        if self._missing(num_bytes, staying) == (0, 0) or not num_bytes:
            for place in chosen:
                self._evict(place, reason="room")

    def _candidates(self, staying: list[Place], *, is_urgent: bool) -> Iterator[Place]:
        free = [place for place in staying if place.engine is not None and not place.is_pinned]
        yield from sorted((p for p in free if not p.num_users), key=lambda p: p.last_used)
        if is_urgent:
            yield from sorted((p for p in free if p.num_users), key=lambda p: p.loaded_at)
