"""A pool with models `a`, `b`, `c` over scripted engines, for the tests of residency."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from purvey.contracts.deployment import EngineOptions, Profile
from purvey.contracts.engine import Delta, EngineClient, Generate, TextPrompt
from purvey.contracts.ids import DEFAULT_PROJECT, new_id
from purvey.contracts.sampling import Sampling
from purvey.registry.deployments.book import Deployments
from purvey.registry.deployments.directory import Directory
from purvey.registry.engines.place import EngineLimits
from purvey.registry.engines.pool import EnginePool
from purvey.registry.models import ModelRegistry
from purvey.store.artifacts import Artifacts
from purvey.store.database import Database
from purvey.testing.clock import FakeClock
from purvey.testing.model_folder import (
    ADAPTABLE,
    write_plausible_adapter,
    write_plausible_folder,
)
from purvey.testing.scripted_engine import ScriptedLauncher

PROJECT = DEFAULT_PROJECT
PLENTY = EngineLimits(
    num_threads=1,
    kv_cache_bytes=1,
    max_batch_tokens=1,
    memory_bytes=2**40,
    max_loaded=2,
    close_timeout_s=5,
)


@dataclass(kw_only=True)
class Bench:
    """What the tests turn and look at."""

    pool: EnginePool
    launcher: ScriptedLauncher
    registry: ModelRegistry
    deployments: Deployments
    clock: FakeClock
    folder: Path

    async def adapt(self, base: str, *names: str, project: str = PROJECT) -> None:
        """Register adapters of a model; an engine says that each takes 64 bytes."""
        for name in names:
            alpha = 1 + sum(map(ord, name))  # other bytes, so another digest
            folder = write_plausible_adapter(self.folder / name, config={"lora_alpha": alpha})
            await self.registry.register_folder(project, name, folder, base=base)

    def adapters(self, base: str) -> dict[str, str]:
        """Return the state of each adapter of a model's engines, by name."""
        engines = [engine for engine in self.pool.engines() if engine.name == base]
        return {one.name: one.state for engine in engines for one in engine.adapters}

    async def ask(self, name: str, text: str = "hi") -> str:
        """Have a model say the text again."""
        async with self.pool.use(PROJECT, name) as (_, engine):
            answer = await said(engine, text)
        self.pool.check()
        return answer

    async def deploy(self, name: str, model: str, **profiles: Profile) -> None:
        """Create a deployment, as its route does."""
        made = await self.deployments.create(
            PROJECT, name, model, profiles, beside=lambda _conn, _made: None
        )
        self.pool.follow(None, made)

    async def change(self, name: str, **profiles: Profile | None) -> None:
        """Update one, as its route does."""
        change = await self.deployments.update(PROJECT, name, model=None, profiles=profiles)
        self.pool.follow(change.before, change.after)

    def loads(self) -> list[str]:
        """Name the models of all launches."""
        return [load.source.name for load in self.launcher.loads]

    def states(self) -> dict[str, str]:
        """Return the state of each engine by model; of several, one."""
        return {engine.name: engine.state for engine in self.pool.engines()}

    def loaded(self) -> set[str]:
        """Name the models that are ready."""
        return {engine.name for engine in self.pool.engines() if engine.state == "ready"}

    def precisions(self) -> list[str]:
        """Return the precisions of all engines that are ready."""
        ready = [engine for engine in self.pool.engines() if engine.state == "ready"]
        return sorted(engine.options.precision for engine in ready)


async def said(engine: EngineClient, text: str) -> str:
    """Have an engine say the text again."""
    request = Generate(request_id=new_id("req_"), prompt=TextPrompt(text=text), sampling=Sampling())
    return "".join([e.text async for e in engine.generate(request) if isinstance(e, Delta)])


async def make_bench(
    folder: Path,
    clock: FakeClock,
    database: Database,
    *,
    keep_alive_s: float = -1,
    **changes: float,
) -> Bench:
    """Make one whose limits are `PLENTY` with changes."""
    registry = ModelRegistry(
        database, Artifacts(folder / "artifacts"), model_roots=[folder], clock=clock
    )
    for name in ("a", "b", "c"):
        model = write_plausible_folder(folder / name, shapes=ADAPTABLE)
        (model / "generation_config.json").write_text(f'{{"of": "{name}"}}', encoding="utf-8")
        await registry.register_folder(PROJECT, name, model)
    directory = Directory(registry, options=EngineOptions(), keep_alive_s=keep_alive_s)
    deployments = Deployments(database, directory, clock=clock)
    launcher = ScriptedLauncher()
    limits = replace(PLENTY, **changes)  # type: ignore[arg-type]  # names of its fields
    pool = EnginePool(launcher, registry, directory, limits=limits, clock=clock)
    return Bench(
        pool=pool,
        launcher=launcher,
        registry=registry,
        deployments=deployments,
        clock=clock,
        folder=folder,
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (conditions of several objects)
            await asyncio.sleep(0.001)
