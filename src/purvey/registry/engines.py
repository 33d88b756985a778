"""Which models are resident: one engine each, loaded when asked for, the idlest one leaves."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from purvey.contracts.clock import Clock
from purvey.contracts.engine import (
    EngineClient,
    EngineLauncher,
    EngineStats,
    LoadModel,
    ModelLoaded,
)
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import ModelRecord
from purvey.errors import CapacityError, ShuttingDownError, WorkerCrashedError
from purvey.registry.models import ModelRegistry
from purvey.telemetry import metrics

logger = logging.getLogger(__name__)

Key = tuple[str, str]
"""Project and name: tenants never share an engine."""


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """What each engine may use, and how patient the pool is.

    Args:
        num_threads: Compute threads of one engine.
        kv_cache_bytes: Key/value cache of one engine.
        max_batch_tokens: Tokens of one step.
        max_loaded: Engines that may exist at one time.
        backoff_s: Pause before the second start after a crash; doubles with every crash.
        breaker_crashes: Crashes in a row after which nobody is made to wait any more.
        breaker_open_s: How long requests are then refused before one more try.
        close_timeout_s: How long an engine that leaves may finish what it runs.
        failpoints: Plan for every engine; empty but in tests.
    """

    num_threads: int
    kv_cache_bytes: int
    max_batch_tokens: int
    max_loaded: int = 4
    backoff_s: float = 0.5
    breaker_crashes: int = 3
    breaker_open_s: float = 30.0
    close_timeout_s: float = 10.0
    failpoints: str = ""


@dataclass(frozen=True, kw_only=True)
class LoadedEngine:
    """One resident model, for whoever wants to know."""

    project_id: str
    name: str
    digest: str
    model: ModelLoaded
    stats: EngineStats | None


@dataclass(kw_only=True)
class _Place:
    """Where one model's engine is, comes to be, or was until it crashed."""

    record: ModelRecord
    engine: EngineClient | None = None
    loading: "asyncio.Task[EngineClient] | None" = None
    num_users: int = 0
    num_waiting: int = 0
    last_used: float = 0.0
    crashes: int = 0
    retry_at: float = 0.0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_resident(self) -> bool:
        return self.engine is not None or self.loading is not None


class EnginePool:
    """Engines by model. Lives on one event loop.

    Invariants: a place has an engine or a load under way, never both; at most
    `limits.max_loaded` places have either; an engine with users is never evicted.
    """

    def __init__(
        self,
        launcher: EngineLauncher,
        registry: ModelRegistry,
        *,
        limits: EngineLimits,
        clock: Clock,
    ) -> None:
        self._launcher, self._registry = launcher, registry
        self._limits, self._clock = limits, clock
        self._places: dict[Key, _Place] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self.num_restarts = 0
        """Starts after a crash, over the life of the pool."""

    @asynccontextmanager
    async def use(
        self, project_id: str, name: str
    ) -> AsyncIterator[tuple[ModelRecord, EngineClient]]:
        """Hold a model's engine, loaded if need be; it is not evicted meanwhile.

        However many ask for a model at once, it is loaded once.

        Raises:
            ModelNotFoundError: No such model, or another project's.
            CapacityError: All places are in use, the model crashed too often, or too many
                requests wait for it to load.
            PurveyError: Whatever the load ended in.
        """
        record = await self._registry.get(project_id, name)
        if self._is_draining:
            raise ShuttingDownError("the server is shutting down.")
        place = self._place(record)
        place.num_users += 1
        place.idle.clear()
        try:
            engine = await self._engine(place)
            yield record, engine
            if engine.is_alive:
                place.crashes = 0
        finally:
            place.num_users -= 1
            place.last_used = self._clock.monotonic()
            self._note_crash(place)
            if place.num_users == 0:
                place.idle.set()
                self._forget_empty(place)

    def loaded(self) -> list[LoadedEngine]:
        """List resident models, of every project."""
        return [
            LoadedEngine(
                project_id=place.record.project_id,
                name=place.record.name,
                digest=place.record.digest,
                model=place.engine.model,
                stats=place.engine.stats,
            )
            for place in self._places.values()
            if place.engine is not None
        ]

    async def forget(self, project_id: str, name: str) -> None:
        """Let a model's engine go, as soon as nobody uses it; new requests load it anew."""
        place = self._places.pop((project_id, name), None)
        if place is not None:
            self._leave(self._close_when_idle(place))

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new, let what runs finish for at most `timeout_s`, then end all."""
        self._is_draining = True
        for place in list(self._places.values()):
            self._leave(self._close_when_idle(place, timeout_s=timeout_s))
        self._places.clear()
        while self._leaving:
            await asyncio.gather(*self._leaving, return_exceptions=True)

    def check(self) -> None:
        """Verify the invariants."""
        resident = [p for p in self._places.values() if p.is_resident]
        assert len(resident) <= self._limits.max_loaded, "more engines than places"  # noqa: S101
        both = [p for p in resident if p.engine is not None and p.loading is not None]
        assert not both, "an engine and a load at one time"  # noqa: S101

    def _place(self, record: ModelRecord) -> _Place:
        key = (record.project_id, record.name)
        place = self._places.get(key)
        if place is not None and place.record.digest != record.digest:
            # The name was deleted and given to another model since.
            self._leave(self._close_when_idle(self._places.pop(key)))
            place = None
        if place is None:
            place = self._places[key] = _Place(record=record)
        return place

    async def _engine(self, place: _Place) -> EngineClient:
        self._note_crash(place)
        if place.engine is not None:
            return place.engine
        if place.loading is None:
            self._require_closed_breaker(place)
            leaving = self._make_room()
            place.loading = asyncio.create_task(self._load(place, leaving))
            place.loading.add_done_callback(_retrieve)
        if place.num_waiting >= LIMITS.loading_requests:
            raise CapacityError(
                f"{place.num_waiting} requests wait for the model {place.record.name!r} to load.",
                hint="Try again when it has loaded.",
            )
        place.num_waiting += 1
        try:
            return await self._loaded(place.loading)
        finally:
            place.num_waiting -= 1

    async def _loaded(self, loading: "asyncio.Task[EngineClient]") -> EngineClient:
        try:
            # Shielded: an asker that gives up does not take the load from the others.
            return await asyncio.shield(loading)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not loading.cancelled() or (task is not None and task.cancelling()):
                raise  # it is the asker that gave up
        if self._is_draining:
            raise ShuttingDownError("the server is shutting down.")
        raise CapacityError("the model was let go while it loaded.")

    async def _load(self, place: _Place, leaving: "asyncio.Task[None] | None") -> EngineClient:
        try:
            if leaving is not None:
                await asyncio.wait([leaving])  # its memory first
            if place.crashes:
                self.num_restarts += 1
                metrics.ENGINE_RESTARTS.labels(model=metrics_label(place.record.digest)).inc()
                await asyncio.sleep(max(0.0, place.retry_at - self._clock.monotonic()))
            source = await self._registry.source(place.record)
            place.engine = await self._launcher.launch(
                LoadModel(
                    source=source,
                    num_threads=self._limits.num_threads,
                    kv_cache_bytes=self._limits.kv_cache_bytes,
                    max_batch_tokens=self._limits.max_batch_tokens,
                    failpoints=self._limits.failpoints,
                )
            )
        except WorkerCrashedError:
            self._count_crash(place)
            raise
        finally:
            place.loading = None
        return place.engine

    def _require_closed_breaker(self, place: _Place) -> None:
        wait_s = place.retry_at - self._clock.monotonic()
        if place.crashes >= self._limits.breaker_crashes and wait_s > 0:
            raise CapacityError(
                f"the model {place.record.name!r} crashed {place.crashes} times in a row.",
                hint=f"It is tried again in {wait_s:.0f} s; the server's log says why it died.",
            )

    def _make_room(self) -> "asyncio.Task[None] | None":
        """Evict the idlest engine when every place is taken; return its leaving."""
        if sum(p.is_resident for p in self._places.values()) < self._limits.max_loaded:
            return None
        idle = [p for p in self._places.values() if p.engine is not None and p.num_users == 0]
        if not idle:
            raise CapacityError(
                f"all {self._limits.max_loaded} places for models are in use.",
                hint="Try again soon, or let the server hold more (PURVEY_MAX_LOADED_MODELS).",
            )
        idlest = min(idle, key=lambda p: p.last_used)
        del self._places[idlest.record.project_id, idlest.record.name]
        logger.info("engine.evicted", extra={"model": idlest.record.name})
        return self._leave(self._close_when_idle(idlest))

    def _note_crash(self, place: _Place) -> None:
        """Count an engine that has died, once, and let what is left of it go."""
        if place.engine is None or place.engine.is_alive:
            return
        self._leave(place.engine.close(timeout_s=self._limits.close_timeout_s))
        place.engine = None
        self._count_crash(place)

    def _count_crash(self, place: _Place) -> None:
        place.crashes += 1
        if place.crashes >= self._limits.breaker_crashes:
            pause_s = self._limits.breaker_open_s
        else:
            pause_s = self._limits.backoff_s * 2.0 ** (place.crashes - 1)
        place.retry_at = self._clock.monotonic() + pause_s
        logger.error("engine.crashed", extra={"model": place.record.name, "crashes": place.crashes})

    def _forget_empty(self, place: _Place) -> None:
        """Drop a place that holds neither an engine nor the memory of a crash."""
        key = (place.record.project_id, place.record.name)
        if not place.is_resident and not place.crashes and self._places.get(key) is place:
            del self._places[key]

    async def _close_when_idle(self, place: _Place, *, timeout_s: float | None = None) -> None:
        patience_s = self._limits.close_timeout_s if timeout_s is None else timeout_s
        deadline = self._clock.monotonic() + patience_s
        if place.loading is not None:
            place.loading.cancel()
            await asyncio.wait([place.loading])
        if place.num_users:
            await _wait_at_most(place.idle, patience_s)
        if place.engine is not None:
            left_s = max(0.0, deadline - self._clock.monotonic())
            await place.engine.close(timeout_s=left_s)
            place.engine = None

    def _leave(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task


def metrics_label(digest: str) -> str:
    """Return how a model is called in metrics, which anybody may read: names tell of tenants."""
    return digest[:12]


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _retrieve(task: "asyncio.Task[EngineClient]") -> None:
    """Look at a load's error, so that one whose askers all left is not reported as lost."""
    if not task.cancelled():
        task.exception()
