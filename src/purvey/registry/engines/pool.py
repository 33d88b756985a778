"""Resident models: one engine each, loaded when asked for; what nobody asks for leaves."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from purvey.contracts.clock import Clock
from purvey.contracts.deployment import DeploymentRecord, EngineOptions
from purvey.contracts.engine import EngineClient, EngineLauncher
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import ModelRecord
from purvey.errors import (
    CapacityError,
    MethodUnsupportedError,
    PurveyError,
    ShuttingDownError,
    WorkerCrashedError,
)
from purvey.registry.deployments.directory import Directory
from purvey.registry.engines.adapters import Adapters
from purvey.registry.engines.leaving import Departures
from purvey.registry.engines.loading import Loader
from purvey.registry.engines.place import AdapterPlace, EngineLimits, Key, Place, ResidentEngine
from purvey.registry.engines.room import EngineLeavesError, Reason, Room
from purvey.registry.models import ModelRegistry
from purvey.registry.upstream_models import require_here
from purvey.telemetry import metrics

logger = logging.getLogger(__name__)
TENDING_INTERVAL_S = 1.0


class EnginePool:
    """Engines by model and options; a fine-tuned adapter is served by the engine of its base.

    Lives on one event loop.

    Invariants: a place has an engine or a load under way, never both; the engines hold at most
    `limits.memory_bytes` and are at most `limits.max_loaded`; one that has users is not ended.

    Args:
        launcher: Who starts engines.
        registry: Where models are.
        directory: What names mean beside those of models, and how models are served.
        limits: What engines may use.
        clock: Source of time.

    Attributes:
        num_evictions: Engines that had to leave for others or were idle for too long, by project.
    """

    def __init__(
        self,
        launcher: EngineLauncher,
        registry: ModelRegistry,
        directory: Directory,
        *,
        limits: EngineLimits,
        clock: Clock,
    ) -> None:
        self._registry, self._directory = registry, directory
        self._limits, self._clock = limits, clock
        self._room = Room(limits, evict=self._evict, drop=self._drop_adapter)
        self._loader = Loader(launcher, registry, self._room, limits=limits, clock=clock)
        self._adapters = Adapters(registry, directory, self._room, limits=limits, clock=clock)
        self._merging: set[tuple[str, EngineOptions]] = set()
        self._places: dict[Key, Place] = {}
        self._departures = Departures(
            self._room, close_timeout_s=limits.close_timeout_s, clock=clock
        )
        self._is_draining = False
        self.num_evictions: Counter[str] = Counter()
        metrics.MODEL_MEMORY_BUDGET.set(limits.memory_bytes)

    @property
    def memory_bytes(self) -> int:
        """The budget of all engines together."""
        return self._limits.memory_bytes

    @property
    def num_restarts(self) -> int:
        """Starts after a crash, over the life of the pool."""
        return self._loader.num_restarts

    def num_loads(self, project_id: str) -> int:
        """Count a project's loads that ended well, over the life of the pool."""
        return self._loader.num_loads[project_id]

    @asynccontextmanager
    async def use(
        self, project_id: str, name: str
    ) -> AsyncIterator[tuple[ModelRecord, EngineClient]]:
        """Hold a model's engine, loaded if need be; it does not leave meanwhile.

        However many ask for a model at once, it is loaded once; an adapter is loaded into the
        engine of its base, which all adapters of that base share. Where others are in use and the
        budget holds no more, the load waits for room.

        Args:
            project_id: Who asks.
            name: Of a model, of a deployment, or of a deployment's profile (`name:profile`).

        Raises:
            ModelNotFoundError: No such name, or another project's.
            MethodUnsupportedError: Another server computes the model.
            SettingError: The model would not fit into the budget if it were alone.
            CapacityError: No room came, the model crashed too often, or too many requests wait
                for it to load.
            PurveyError: Whatever the load ended in.
        """
        served = await self._directory.served(project_id, name)
        require_here(served.record)
        if self._is_draining:
            raise ShuttingDownError("the server is shutting down.")
        async with self._serving(served.record, served.options) as engine:
            yield served.record, engine

    def engines(self) -> list[ResidentEngine]:
        """List engines of every project, those that wait for room or leave among them."""
        now = self._clock.monotonic()
        found = [place for place in self._places.values() if place.is_resident]
        return [place.shown(now=now) for place in [*found, *self._departures]]

    async def unload(self, project_id: str, name: str) -> int:
        """Let the engines of a name go, as soon as nobody uses them; return how many.

        Args:
            project_id: Whose.
            name: Of a profile, for its engine; else of a deployment or a model, for all engines
                of the model.

        Raises:
            ModelNotFoundError: No such name, or another project's.
        """
        served = await self._directory.served(project_id, name)
        options = served.options if served.is_profile else None
        leaving = [
            (place, adapter)
            for place, adapter in self._holding(project_id, served.record.name, options)
            if adapter is not None or place.is_resident
        ]
        for place, adapter in leaving:
            self._let_go(place, adapter, reason="stopped")
        return len(leaving)

    def forget(self, project_id: str, name: str) -> None:
        """Let a deleted model's engines go; they finish what they run, for a while.

        An adapter leaves when what runs with it has ended.
        """
        for place, adapter in list(self._holding(project_id, name)):
            if adapter is not None:
                self._adapters.leave(place, adapter, reason="stopped")
            else:
                self._depart(place, patience_s=self._limits.close_timeout_s)

    def expire(self) -> None:
        """Let engines and adapters go that have been idle for as long as they are kept."""
        for place in self._places.values():
            self._adapters.expire(place)
        now = self._clock.monotonic()
        for place in [p for p in self._places.values() if p.expires_in_s(now=now) == 0]:
            self._evict(place, reason="idle")

    async def tend(self) -> None:
        """Load what is pinned, then let engines go in time, until cancelled."""
        for key in self._directory.pinned():
            self._departures.start(self._warm(key))
        while True:
            self.expire()
            await asyncio.sleep(TENDING_INTERVAL_S)

    def follow(self, before: DeploymentRecord | None, after: DeploymentRecord | None) -> None:
        """Serve as a deployment says now, without ending anything that runs.

        What it pins is loaded. Where a profile's engine is resident and is made otherwise now,
        its successor is loaded; then it leaves, unless something else wants it.

        Args:
            before: What it said; None where it is new.
            after: What it says; None where it is gone.
        """
        for place in self._places.values():
            self._set_terms(place)
        old, new = self._keys(before), self._keys(after)
        wanted = {
            key
            for name, key in new.items()
            if not self._is_there(key)
            and (self._directory.terms(*key).is_pinned or self._is_there(old.get(name)))
        }
        gone = {key for key in old.values() if not self._directory.wants(key)}
        self._departures.start(self._replace(wanted, gone))
        self._room.tell()

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new, let what runs finish for at most `timeout_s`, then end all."""
        self._is_draining = True
        patient = set(self._departures)
        for place in list(self._places.values()):
            self._depart(place, patience_s=timeout_s)
        await self._departures.ended(patient=patient, timeout_s=timeout_s)
        await self._adapters.ended()

    def check(self) -> None:
        """Verify the invariants."""
        self._room.check()
        both = [p for p in self._places.values() if p.engine is not None and p.loading is not None]
        assert not both, "an engine and a load at one time"  # noqa: S101
        assert not any(p.is_leaving for p in self._places.values()), "to be asked, but leaving"  # noqa: S101

    @asynccontextmanager
    async def _serving(
        self, record: ModelRecord, options: EngineOptions
    ) -> AsyncIterator[EngineClient]:
        base = await self._registry.base(record)
        async with AsyncExitStack() as held:
            if base is not None:
                adapted = await self._on_base(held, record, base, options)
                if adapted is not None:
                    yield adapted
                    return
            async with self._held(Key(record.project_id, record.name, options), record) as mine:
                yield mine[1]

    async def _on_base(
        self, held: AsyncExitStack, record: ModelRecord, base: ModelRecord, options: EngineOptions
    ) -> EngineClient | None:
        """Hold an adapter in the engine of its base; None where that takes no adapters.

        Then the adapter is merged into its base and served by an engine of its own.
        """
        key, has_crashed = Key(base.project_id, base.name, options), False
        while (base.digest, options) not in self._merging:
            try:
                async with AsyncExitStack() as trying:
                    place, engine = await trying.enter_async_context(self._held(key, base))
                    adapter = self._adapters.held(place, engine, record)
                    try:
                        adapted = await trying.enter_async_context(adapter)
                    except WorkerCrashedError:
                        if has_crashed:
                            raise
                        has_crashed = True
                        continue
                    held.push_async_exit(trying.pop_all())
                    return adapted
            except EngineLeavesError:
                if self._is_draining:
                    raise ShuttingDownError("the server is shutting down.") from None
            except MethodUnsupportedError:
                self._merging.add((base.digest, options))
        return None

    @asynccontextmanager
    async def _held(
        self, key: Key, record: ModelRecord
    ) -> AsyncIterator[tuple[Place, EngineClient]]:
        place = self._place(key, record)
        place.num_users += 1
        place.may_close.clear()
        try:
            engine = await self._engine(place)
            yield place, engine
            if engine.is_alive:
                place.breaker.crashes = 0
        finally:
            place.num_users -= 1
            place.last_used = self._clock.monotonic()
            self._note_crash(place)
            if place.num_users == 0:
                self._let_rest(place)

    def _let_rest(self, place: Place) -> None:
        place.may_close.set()
        self._room.tell()
        self._forget_empty(place)
        if place.expires_in_s(now=place.last_used) == 0:
            self._evict(place, reason="idle")

    def _place(self, key: Key, record: ModelRecord) -> Place:
        place = self._places.get(key)
        if place is not None and place.record.digest != record.digest:
            # The name was deleted and given to another model since.
            self._depart(place, patience_s=self._limits.close_timeout_s)
            place = None
        if place is None:
            place = self._places[key] = Place(key=key, record=record)
            self._set_terms(place)
        return place

    def _set_terms(self, place: Place) -> None:
        terms = self._directory.terms(*place.key)
        place.keep_alive_s, place.is_own_pinned = terms.keep_alive_s, terms.is_pinned
        for adapter in place.adapters.values():
            self._adapters.set_terms(place, adapter)

    def _holding(
        self, project_id: str, name: str, options: EngineOptions | None = None
    ) -> Iterator[tuple[Place, AdapterPlace | None]]:
        """Yield the places of a model, and where it is an adapter, those of its base with it."""
        for key, place in self._places.items():
            if key.project_id == project_id and options in (None, key.options):
                if key.model == name:
                    yield place, None
                yield from (
                    (place, adapter)
                    for adapter in place.adapters.values()
                    if adapter.record.name == name and adapter.dropping is None
                )

    def _is_there(self, key: Key | None) -> bool:
        return key is not None and any(self._holding(*key))

    def _let_go(self, place: Place, adapter: AdapterPlace | None, *, reason: Reason) -> None:
        if adapter is None:
            self._evict(place, reason=reason)
        else:
            self._adapters.leave(place, adapter, reason=reason)

    def _drop_adapter(self, place: Place, adapter: AdapterPlace, *, reason: Reason) -> None:
        self._adapters.drop(place, adapter, reason=reason)

    def _keys(self, deployment: DeploymentRecord | None) -> dict[str, Key]:
        if deployment is None:
            return {}
        return {
            name: Key(
                deployment.project_id,
                profile.adapter or deployment.model,
                self._directory.options(profile),
            )
            for name, profile in deployment.profiles.items()
        }

    async def _engine(self, place: Place) -> EngineClient:
        self._note_crash(place)
        if place.engine is not None:
            return place.engine
        if place.loading is None:
            now = self._clock.monotonic()
            place.breaker.require_closed(place.record.name, self._limits, now=now)
            place.loading = asyncio.create_task(self._load(place))
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

    async def _load(self, place: Place) -> EngineClient:
        try:
            return await self._loader.load(place)
        except WorkerCrashedError:
            self._count_crash(place)
            raise
        finally:
            place.loading = None
            if not place.num_users:
                self._forget_empty(place)

    async def _replace(self, wanted: set[Key], gone: set[Key]) -> None:
        await asyncio.gather(*(self._warm(key) for key in wanted))
        for place, adapter in [one for key in gone for one in self._holding(*key)]:
            if adapter is not None or place.is_resident:
                self._let_go(place, adapter, reason="replaced")

    async def _warm(self, key: Key) -> None:
        """Load an engine that nobody waits for; a failure is logged, and the next asker tries."""
        try:
            record = await self._registry.get(key.project_id, key.model)
            if self._is_draining:
                return
            async with self._serving(record, key.options):
                pass
        except PurveyError as error:
            extra = {"model": key.model, "code": error.code}
            logger.warning("engine.not_warmed", extra=extra)

    def _note_crash(self, place: Place) -> None:
        """Count an engine that has died, once, and let what is left of it go."""
        if place.engine is None or place.engine.is_alive or place.is_leaving:
            return
        self._departures.start(place.engine.close(timeout_s=self._limits.close_timeout_s))
        place.engine = None
        place.adapters.clear()
        self._room.give_back(place)
        self._count_crash(place)

    def _count_crash(self, place: Place) -> None:
        now = self._clock.monotonic()
        place.breaker.count(place.record.name, self._limits, now=now)

    def _forget_empty(self, place: Place) -> None:
        """Drop a place that holds neither an engine nor the memory of a crash."""
        if not place.is_resident and not place.breaker.crashes:
            self._drop(place)

    def _drop(self, place: Place) -> None:
        if self._places.get(place.key) is place:
            del self._places[place.key]

    def _evict(self, place: Place, *, reason: Reason) -> None:
        """Let an engine go in its own time: when what it runs has ended."""
        self.num_evictions[place.key.project_id] += 1
        metrics.ENGINE_EVICTIONS.labels(reason=reason).inc()
        logger.info("engine.evicted", extra={"model": place.record.name, "reason": reason})
        self._depart(place, patience_s=math.inf)

    def _depart(self, place: Place, *, patience_s: float) -> None:
        self._drop(place)
        self._departures.add(place, patience_s=patience_s)


def _retrieve(task: "asyncio.Task[EngineClient]") -> None:
    """Look at a load's error, so that one whose askers all left is not reported as lost."""
    if not task.cancelled():
        task.exception()
