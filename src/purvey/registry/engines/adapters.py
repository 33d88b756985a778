"""Adapters in the engines of their bases: loaded when asked for, dropped when others need room."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from purvey.contracts.adapter import AdapterLoaded, DropAdapter, LoadAdapter
from purvey.contracts.clock import Clock
from purvey.contracts.engine import EngineClient
from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import ModelRecord
from purvey.errors import CapacityError, IntegrityError, PurveyError, SettingError
from purvey.registry.adapters import adapter_bytes
from purvey.registry.deployments.directory import Directory
from purvey.registry.engines.adapted import AdaptedEngine
from purvey.registry.engines.memory import size
from purvey.registry.engines.place import AdapterPlace, EngineLimits, Place
from purvey.registry.engines.room import EngineLeavesError, Reason, Room
from purvey.registry.models import ModelRegistry
from purvey.telemetry import metrics

logger = logging.getLogger(__name__)


class Adapters:
    """The adapters of all engines. Lives on one event loop.

    Invariants: what one engine's take is at most `limits.adapter_bytes`, as far as it is known
    before they are loaded; one that has users is not dropped.

    Args:
        registry: Where adapters are.
        directory: How long they are kept.
        room: Whose memory they take.
        limits: What they may use.
        clock: Source of time.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        directory: Directory,
        room: Room,
        *,
        limits: EngineLimits,
        clock: Clock,
    ) -> None:
        self._registry, self._directory, self._room = registry, directory, room
        self._limits, self._clock = limits, clock
        self._work: set[asyncio.Task[None] | asyncio.Task[AdapterLoaded]] = set()

    @asynccontextmanager
    async def held(
        self, place: Place, engine: EngineClient, record: ModelRecord
    ) -> AsyncIterator[AdaptedEngine]:
        """Hold an adapter in an engine, loaded if need be; it is not dropped meanwhile.

        However many ask for an adapter at once, it is loaded once.

        Args:
            place: Of the base; held by the caller.
            engine: The place's.
            record: The adapter.

        Raises:
            EngineLeavesError: The engine leaves; another one is to be asked.
            SettingError: The adapter would not fit if it were alone.
            CapacityError: No room came, or too many requests wait for it to load.
            PurveyError: Whatever the load ended in.
        """
        adapter = await self._place(place, record)
        adapter.num_users += 1
        try:
            loaded = await self._loaded(place, engine, adapter)
            load_again = partial(self._load_again, place, engine, adapter)
            yield AdaptedEngine(engine, loaded, load_again)
        finally:
            adapter.num_users -= 1
            adapter.last_used = self._clock.monotonic()
            if not adapter.num_users:
                self._let_rest(place, adapter)

    def leave(self, place: Place, adapter: AdapterPlace, *, reason: Reason) -> None:
        """Drop an adapter as soon as nobody uses it."""
        adapter.is_leaving = True
        if adapter.is_idle:
            self.drop(place, adapter, reason=reason)

    def drop(self, place: Place, adapter: AdapterPlace, *, reason: Reason) -> None:
        """Drop an adapter that nobody uses; returns at once."""
        metrics.ADAPTER_DROPS.labels(reason=reason).inc()
        logger.info("adapter.dropped", extra={"model": adapter.record.name, "reason": reason})
        adapter.dropping = asyncio.create_task(self._drop(place, place.engine, adapter))
        self._work.add(adapter.dropping)
        adapter.dropping.add_done_callback(self._work.discard)

    def expire(self, place: Place) -> None:
        """Drop those that have been idle for as long as they are kept."""
        now = self._clock.monotonic()
        for adapter in list(place.adapters.values()):
            if adapter.is_idle and adapter.expires_in_s(now=now) == 0:
                self.drop(place, adapter, reason="idle")

    def set_terms(self, place: Place, adapter: AdapterPlace) -> None:
        """Keep an adapter as its profiles say now."""
        key = place.key
        terms = self._directory.terms(key.project_id, adapter.record.name, key.options)
        adapter.keep_alive_s, adapter.is_pinned = terms.keep_alive_s, terms.is_pinned

    async def ended(self) -> None:
        """Wait until nothing is being loaded or dropped; for when all engines have ended."""
        while self._work:
            await asyncio.gather(*self._work, return_exceptions=True)

    async def _place(self, place: Place, record: ModelRecord) -> AdapterPlace:
        while True:
            adapter = place.adapters.get(record.digest)
            if adapter is None:
                adapter = place.adapters[record.digest] = AdapterPlace(record=record)
            elif adapter.dropping is not None:
                await asyncio.wait([adapter.dropping])
                continue
            adapter.record, adapter.is_leaving = record, False
            self.set_terms(place, adapter)
            return adapter

    async def _loaded(
        self, place: Place, engine: EngineClient, adapter: AdapterPlace
    ) -> AdapterLoaded:
        if adapter.loaded is not None:
            return adapter.loaded
        if adapter.loading is None:
            adapter.loading = asyncio.create_task(self._load(place, engine, adapter))
            self._work.add(adapter.loading)
            adapter.loading.add_done_callback(self._loading_ended)
        if adapter.num_waiting >= LIMITS.loading_requests:
            raise CapacityError(
                f"{adapter.num_waiting} requests wait for the model {adapter.record.name!r} to "
                "load.",
                hint="Try again when it has loaded.",
            )
        adapter.num_waiting += 1
        try:
            # Shielded: an asker that gives up does not take the load from the others.
            return await asyncio.shield(adapter.loading)
        finally:
            adapter.num_waiting -= 1

    async def _load(
        self, place: Place, engine: EngineClient, adapter: AdapterPlace
    ) -> AdapterLoaded:
        name = adapter.record.name
        try:
            folder = await self._registry.adapter_folder(adapter.record)
            num_bytes = await asyncio.to_thread(adapter_bytes, folder)
            async with place.loading_adapter:
                await self._make_room(place, adapter, num_bytes)
                adapter.loaded = await self._asked(place, engine, adapter, folder)
            self._room.resize_adapter(place, adapter, adapter.loaded.num_bytes)
        except BaseException as error:
            self._room.resize_adapter(place, adapter, 0)
            if isinstance(error, OSError):
                raise IntegrityError(f"a file of the model {name!r} cannot be read.") from error
            raise
        finally:
            adapter.loading = None
            if not adapter.num_users:  # all askers gave up
                self._let_rest(place, adapter)
        metrics.ADAPTER_LOADS.inc()
        logger.info("adapter.loaded", extra={"model": name})
        return adapter.loaded

    async def _asked(
        self, place: Place, engine: EngineClient, adapter: AdapterPlace, folder: Path
    ) -> AdapterLoaded:
        """Have the engine load it; where it has less room than was counted, idle ones leave."""
        while True:
            asked = LoadAdapter(
                request_id=new_id("req_"), adapter=adapter.record.digest, folder=str(folder)
            )
            try:
                return await engine.load_adapter(asked)
            except CapacityError as error:
                self._clear(place, 1)
                dropping = [one.dropping for one in place.adapters.values() if one.dropping]
                if error.code != CapacityError.code or not dropping:
                    raise
                await asyncio.wait(dropping)

    async def _load_again(
        self, place: Place, engine: EngineClient, adapter: AdapterPlace
    ) -> AdapterLoaded:
        """Load what the engine has lost; who holds it goes on holding it."""
        if adapter.loading is None:
            adapter.loaded = None
            self._room.resize_adapter(place, adapter, 0)
        return await self._loaded(place, engine, adapter)

    async def _make_room(self, place: Place, adapter: AdapterPlace, num_bytes: int) -> None:
        """Hold room for an adapter: among those of its engine first, then among all engines."""
        allowed, name = self._limits.adapter_bytes, adapter.record.name
        if num_bytes > allowed:
            raise SettingError(
                f"the adapter {name!r} does not fit: it takes {size(num_bytes)}, and adapter_bytes "
                f"is {size(allowed)}.",
                param="model",
                hint="Raise adapter_bytes (PURVEY_ADAPTER_BYTES).",
            )
        try:
            async with asyncio.timeout(self._limits.room_wait_s):
                while place.adapters_bytes + num_bytes > allowed:
                    news = self._room.news
                    if place.is_leaving or not place.held_bytes:
                        raise EngineLeavesError
                    self._clear(place, place.adapters_bytes + num_bytes - allowed)
                    await news.wait()
        except TimeoutError:
            raise CapacityError(
                f"no room for the adapter {name!r}: all others of its base are in use.",
                hint="Try again soon, or raise adapter_bytes (PURVEY_ADAPTER_BYTES).",
            ) from None

        def explain() -> str:
            base = place.held_bytes - place.adapters_bytes
            return f"base {size(base)} + adapter {size(num_bytes)}"

        await self._room.grow(place, adapter, num_bytes, explain)

    def _clear(self, place: Place, num_bytes: int) -> None:
        """Drop idle adapters of one engine, the least recently used, until these bytes are free."""
        num_bytes -= place.dropping_bytes
        idle = [one for one in place.adapters.values() if one.is_idle and not one.is_pinned]
        for adapter in sorted(idle, key=lambda one: one.last_used):
            if num_bytes <= 0:
                return
            num_bytes -= adapter.held_bytes
            self.drop(place, adapter, reason="room")

    def _let_rest(self, place: Place, adapter: AdapterPlace) -> None:
        if place.adapters.get(adapter.record.digest) is not adapter:
            return  # its engine has died
        if adapter.loaded is None:
            if adapter.loading is None:
                del place.adapters[adapter.record.digest]
        elif adapter.is_leaving:
            self.drop(place, adapter, reason="stopped")
        elif adapter.expires_in_s(now=adapter.last_used) == 0:
            self.drop(place, adapter, reason="idle")
        self._room.tell()  # it may leave for others now

    async def _drop(self, place: Place, engine: EngineClient | None, adapter: AdapterPlace) -> None:
        digest = adapter.record.digest
        try:
            if engine is not None:
                await engine.drop_adapter(DropAdapter(request_id=new_id("req_"), adapter=digest))
        except PurveyError as error:  # the engine is gone or goes, and the adapter with it
            extra = {"model": adapter.record.name, "code": error.code}
            logger.warning("adapter.not_dropped", extra=extra)
        finally:
            self._room.resize_adapter(place, adapter, 0)
            if place.adapters.get(digest) is adapter:
                del place.adapters[digest]

    def _loading_ended(self, task: "asyncio.Task[AdapterLoaded]") -> None:
        self._work.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: one whose askers all left is not reported as lost
