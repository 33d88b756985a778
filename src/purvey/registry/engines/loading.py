"""One load: how much it takes, the room for it, the bytes verified, the process started."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial

from purvey.contracts.clock import Clock
from purvey.contracts.engine import EngineClient, EngineLauncher, LoadModel
from purvey.contracts.model import ModelSource
from purvey.errors import IntegrityError, PurveyError
from purvey.registry.engines.memory import Needs, size
from purvey.registry.engines.place import EngineLimits, Place
from purvey.registry.engines.room import Room
from purvey.registry.models import ModelRegistry
from purvey.telemetry import metrics


class Loader:
    """Loads models into places.

    Args:
        launcher: Who starts engines.
        registry: Where models are.
        room: Whose memory they take.
        limits: What an engine may use.
        clock: Tells when a crashed one may start again.

    Attributes:
        num_loads: Loads that ended well, by project.
        num_restarts: Starts after a crash.
    """

    def __init__(
        self,
        launcher: EngineLauncher,
        registry: ModelRegistry,
        room: Room,
        *,
        limits: EngineLimits,
        clock: Clock,
    ) -> None:
        self._launcher, self._registry, self._room = launcher, registry, room
        self._limits, self._clock = limits, clock
        self._needs = Needs(
            kv_cache_bytes=limits.kv_cache_bytes, max_batch_tokens=limits.max_batch_tokens
        )
        self.num_loads: Counter[str] = Counter()
        self.num_restarts = 0

    async def load(self, place: Place) -> EngineClient:
        """Load a place's model; on failure it holds no memory.

        Raises:
            PurveyError: There is no room for it, its files are not what they were, or what the
                engine says.
        """
        try:
            num_bytes, explain = await self._needed(place)
            await self._room.take(place, num_bytes, explain)
            if place.breaker.crashes:
                await self._count_restart(place)
            source = await self._registry.source(place.record)
            engine = await self._launcher.launch(self._order(source, place))
            taken = await self._taken(place, engine)
        except BaseException:
            self._room.give_back(place)
            raise
        self._settle(place, engine, taken)
        return engine

    async def _needed(self, place: Place) -> tuple[int, Callable[[], str]]:
        known = self._needs.known(place.record.digest, place.key.options)
        if known is not None:
            return known, lambda: f"it took {size(known)} when it was loaded"
        source = await self._registry.located(place.record)
        counted = partial(self._needs.count, source, place.record.task, place.key.options)
        try:
            need = await asyncio.to_thread(counted)
        except OSError as error:
            name = place.record.name
            raise IntegrityError(f"a file of the model {name!r} cannot be read.") from error
        return need.num_bytes, lambda: need.text

    async def _count_restart(self, place: Place) -> None:
        self.num_restarts += 1
        metrics.ENGINE_RESTARTS.labels(model=metrics_label(place.record.digest)).inc()
        await asyncio.sleep(max(0.0, place.breaker.retry_at - self._clock.monotonic()))

    def _order(self, source: ModelSource, place: Place) -> LoadModel:
        options, limits = place.key.options, self._limits
        return LoadModel(
            source=source,
            num_threads=limits.num_threads,
            kv_cache_bytes=limits.kv_cache_bytes,
            max_batch_tokens=limits.max_batch_tokens,
            prefix_cache=limits.prefix_cache,
            adapter_bytes=limits.adapter_bytes,
            kept_folder=limits.kept_folder,
            kept_bytes=limits.kept_bytes,
            precision=options.precision,
            device=limits.device,
            batch_window_s=options.batch_window_s,
            failpoints=limits.failpoints,
        )

    async def _taken(self, place: Place, engine: EngineClient) -> int:
        """Return what an engine takes, or end it where that is more than there is for all."""
        taken = self._needs.learn(place.record.digest, place.key.options, engine.model)
        try:
            self._room.require_possible(place, taken, lambda: f"it takes {size(taken)}")
        except PurveyError:
            await engine.close(timeout_s=self._limits.close_timeout_s)
            raise
        return taken

    def _settle(self, place: Place, engine: EngineClient, taken: int) -> None:
        place.engine, place.loaded_at = engine, self._clock.monotonic()
        place.last_used = place.loaded_at
        self.num_loads[place.key.project_id] += 1
        metrics.ENGINE_LOADS.inc()
        self._room.resize(place, taken)


def metrics_label(digest: str) -> str:
    """Return how a model is called in metrics, which anybody may read: names tell of tenants."""
    return digest[:12]
