"""Who gets memory next: a bounded queue before a budget in bytes, and who has to leave for it.

The first in the queue alone takes room, so a large model is not passed by small ones for ever.
Idle adapters leave, the least recently used first; where they are not enough, idle engines do,
in the same order. Where nobody is idle for `yield_after_s`, the
engine that was loaded longest ago takes nothing new: it leaves when what it runs has ended, and
who asks for it meanwhile stands in the queue. So every model of more than fit has its turn.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from purvey.contracts.limits import LIMITS
from purvey.errors import CapacityError, SettingError
from purvey.registry.engines.memory import size
from purvey.registry.engines.place import AdapterPlace, EngineLimits, Place
from purvey.telemetry import metrics

Reason = Literal["room", "idle", "stopped", "replaced"]
"""Why an engine has to leave."""


class Evict(Protocol):
    """Lets a place's engine go, as soon as nobody uses it, and gives its room back then."""

    def __call__(self, place: Place, *, reason: Reason) -> None:
        """Let it go; returns at once."""
        ...


class Drop(Protocol):
    """Lets an idle adapter go, and gives its room back then."""

    def __call__(self, place: Place, adapter: AdapterPlace, *, reason: Reason) -> None:
        """Let it go; returns at once."""
        ...


class EngineLeavesError(Exception):
    """The engine that an adapter was meant for leaves or is gone: another one is to be asked."""


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """Bytes that a place wants: for its engine, or for one more adapter in it."""

    place: Place
    num_bytes: int
    adapter: AdapterPlace | None = None


class Room:
    """The memory of all engines.

    Invariants: holders hold at most `memory_bytes`, what engines and adapters turned out to take
    beyond their estimate aside; at most `max_loaded` hold any.

    Args:
        limits: The budget, and how patient the queue is.
        evict: Lets an engine go.
        drop: Lets an adapter go.
    """

    def __init__(self, limits: EngineLimits, *, evict: Evict, drop: Drop) -> None:
        self._limits, self._evict, self._drop = limits, evict, drop
        self._holders: list[Place] = []
        self._queue: list[_Claim] = []
        self._news = asyncio.Event()

    @property
    def held_bytes(self) -> int:
        """What all engines take."""
        return sum(place.held_bytes for place in self._holders)

    @property
    def news(self) -> asyncio.Event:
        """Set when somebody is idle, leaves, or has given something back."""
        return self._news

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
        claim = _Claim(place=place, num_bytes=num_bytes)
        async with self._turn(claim):
            await self._wait_for(claim)
            place.held_bytes = num_bytes
            self._holders.append(place)

    async def grow(
        self, place: Place, adapter: AdapterPlace, num_bytes: int, explain: Callable[[], str]
    ) -> None:
        """Wait until there is room for one more adapter of an engine, and hold it.

        Raises:
            SettingError: Engine and adapter would not fit if they were alone.
            CapacityError: As `take` does.
            EngineLeavesError: The engine leaves or is gone.
        """
        alone = place.held_bytes - place.adapters_bytes + num_bytes
        self.require_possible(place, alone, explain)
        claim = _Claim(place=place, num_bytes=num_bytes, adapter=adapter)
        async with self._turn(claim):
            await self._wait_for(claim)
            adapter.held_bytes = num_bytes
            place.held_bytes += num_bytes

    @asynccontextmanager
    async def _turn(self, claim: _Claim) -> AsyncIterator[None]:
        """Stand in the queue, for as long as the limits allow."""
        if len(self._queue) >= LIMITS.waiting_models:
            raise CapacityError(f"{len(self._queue)} models wait for room in memory.")
        self._queue.append(claim)
        metrics.MODELS_WAITING.set(len(self._queue))
        record = claim.adapter.record if claim.adapter else claim.place.record
        try:
            async with asyncio.timeout(self._limits.room_wait_s):
                yield
        except TimeoutError:
            raise CapacityError(
                f"no room in memory for the model {record.name!r}: all others are in use.",
                hint="Try again soon, or raise model_memory_bytes and max_loaded_models.",
            ) from None
        finally:
            self._queue.remove(claim)
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
        if self._missing(_Claim(place=place, num_bytes=num_bytes), pinned) != (0, 0):
            raise CapacityError(
                f"the model {place.key.model!r} does not fit beside those that are pinned: "
                f"{explain()}, pinned are {size(sum(p.held_bytes for p in pinned))} of "
                f"{size(budget)}.",
                hint="Unpin one, or raise model_memory_bytes (PURVEY_MODEL_MEMORY_BYTES).",
            )

    def resize(self, place: Place, num_bytes: int) -> None:
        """Correct what a holder takes; idle ones leave where that is more than there is."""
        place.held_bytes = num_bytes
        self._clear(None)
        self.tell()

    def resize_adapter(self, place: Place, adapter: AdapterPlace, num_bytes: int) -> None:
        """Correct what an adapter takes, as `resize` does; 0 gives all of it back."""
        if place in self._holders and place.adapters.get(adapter.record.digest) is adapter:
            held = place.held_bytes + num_bytes - adapter.held_bytes
            adapter.held_bytes = num_bytes
            self.resize(place, held)
        else:  # the engine is gone, and all that it held was given back with it
            adapter.held_bytes = 0

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

    async def _wait_for(self, claim: _Claim) -> None:
        loop = asyncio.get_running_loop()
        while self._queue[0] is not claim:
            self._require_stays(claim)
            await self._news.wait()
        yield_at = loop.time() + self._limits.yield_after_s
        while not self._fits(claim):
            self._require_stays(claim)
            news = self._news
            self._clear(claim, is_urgent=loop.time() >= yield_at)
            if self._fits(claim):
                break
            patience = None if loop.time() >= yield_at else yield_at
            try:
                async with asyncio.timeout_at(patience):
                    await news.wait()
            except TimeoutError:
                continue
        self._require_stays(claim)

    def _require_stays(self, claim: _Claim) -> None:
        """Give up what is claimed for an adapter whose engine was told to leave, or has died."""
        place, adapter = claim.place, claim.adapter
        if adapter is None:
            return
        is_there = place.adapters.get(adapter.record.digest) is adapter and place in self._holders
        if place.is_leaving or not is_there:
            raise EngineLeavesError

    def _fits(self, claim: _Claim) -> bool:
        for place in [p for p in self._holders if p.engine is not None and not p.engine.is_alive]:
            self.give_back(place)  # who still uses it may be who waits
        return self._missing(claim, self._holders) == (0, 0)

    def _missing(
        self, claim: _Claim | None, places: Iterable[Place], *, leaving_bytes: int = 0
    ) -> tuple[int, int]:
        """Return bytes and places that are missing beside these for what is claimed.

        Args:
            claim: None where nothing more is wanted.
            places: Who holds memory.
            leaving_bytes: What these are about to give back.
        """
        held = list(places)
        wanted = sum(p.held_bytes for p in held) - leaving_bytes - self._limits.memory_bytes
        num_new = 1 if claim is not None and claim.adapter is None else 0
        wanted += claim.num_bytes if claim is not None else 0
        return max(0, wanted), max(0, len(held) + num_new - self._limits.max_loaded)

    def _clear(self, claim: _Claim | None, *, is_urgent: bool = False) -> None:
        """Let as few go as are needed, adapters rather than engines.

        Nobody goes where all that may go would not be enough, unless nothing more is claimed:
        then there is too much already.
        """
        staying = [place for place in self._holders if not place.is_leaving]
        leaving = sum(place.dropping_bytes for place in staying)
        if self._missing(claim, staying, leaving_bytes=leaving) == (0, 0):
            return
        dropped = self._droppable(claim, staying, leaving)
        if dropped is not None:
            for place, adapter in dropped:
                self._drop(place, adapter, reason="room")
            return
        chosen: list[Place] = []
        for place in self._candidates(claim, staying, is_urgent=is_urgent):
            leaving = sum(place.dropping_bytes for place in staying)
            if self._missing(claim, staying, leaving_bytes=leaving) == (0, 0):
                break
            staying.remove(place)
            chosen.append(place)
        rest = self._droppable(claim, staying, sum(place.dropping_bytes for place in staying))
        if rest is None and claim is not None:
            return
        for place in chosen:
            self._evict(place, reason="room")
        for place, adapter in rest or ():
            self._drop(place, adapter, reason="room")
        self.tell()

    def _droppable(
        self, claim: _Claim | None, staying: list[Place], leaving_bytes: int
    ) -> list[tuple[Place, AdapterPlace]] | None:
        """Choose idle adapters that are enough if they go, the least recently used; else None."""
        idle = [
            (place, adapter)
            for place in staying
            for adapter in place.adapters.values()
            if adapter.is_idle and not adapter.is_pinned
        ]
        chosen: list[tuple[Place, AdapterPlace]] = []
        for place, adapter in sorted(idle, key=lambda one: one[1].last_used):
            if self._missing(claim, staying, leaving_bytes=leaving_bytes) == (0, 0):
                break
            chosen.append((place, adapter))
            leaving_bytes += adapter.held_bytes
        is_enough = self._missing(claim, staying, leaving_bytes=leaving_bytes) == (0, 0)
        return chosen if is_enough else None

    def _candidates(
        self, claim: _Claim | None, staying: list[Place], *, is_urgent: bool
    ) -> Iterator[Place]:
        own = claim.place if claim is not None else None
        free = [
            place
            for place in staying
            if place.engine is not None and not place.is_pinned and place is not own
        ]
        yield from sorted((p for p in free if not p.num_users), key=lambda p: p.last_used)
        if is_urgent:
            yield from sorted((p for p in free if p.num_users), key=lambda p: p.loaded_at)
