import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from purvey.contracts.engine import Delta, Generate, Sampling, TextPrompt
from purvey.contracts.ids import DEFAULT_PROJECT, new_id
from purvey.contracts.limits import LIMITS
from purvey.errors import (
    CapacityError,
    InvalidCheckpointError,
    ModelNotFoundError,
    ShuttingDownError,
    WorkerCrashedError,
)
from purvey.registry.engines import EngineLimits, EnginePool
from purvey.registry.models import ModelRegistry
from purvey.store import projects
from purvey.store.artifacts import Artifacts
from purvey.store.database import Database
from purvey.testing.clock import FakeClock
from purvey.testing.model_folder import write_plausible_folder
from purvey.testing.scripted_engine import ScriptedLauncher

PROJECT = DEFAULT_PROJECT


@dataclass(kw_only=True)
class Bench:
    """A pool with models `a`, `b`, `c` and the scripted launcher below it."""

    pool: EnginePool
    launcher: ScriptedLauncher
    registry: ModelRegistry
    clock: FakeClock

    async def ask(self, name: str, text: str = "hi") -> str:
        request = Generate(
            request_id=new_id("req_"), prompt=TextPrompt(text=text), sampling=Sampling()
        )
        async with self.pool.use(PROJECT, name) as (_, engine):
            parts = [e.text async for e in engine.generate(request) if isinstance(e, Delta)]
        self.pool.check()
        return "".join(parts)

    def loads(self) -> list[str]:
        return [load.source.name for load in self.launcher.loads]

    def loaded(self) -> set[str]:
        return {engine.name for engine in self.pool.loaded()}


@pytest.fixture
def database(tmp_path: Path, clock: FakeClock) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'p.db'}", clock=clock)
    opened.write_now(lambda conn: projects.ensure(conn, PROJECT, name="default", now=0.0))
    yield opened
    opened.close()


@pytest.fixture
async def bench(tmp_path: Path, clock: FakeClock, database: Database) -> Bench:
    registry = ModelRegistry(
        database, Artifacts(tmp_path / "artifacts"), model_roots=[tmp_path], clock=clock
    )
    for name in ("a", "b", "c"):
        await registry.register_folder(PROJECT, name, write_plausible_folder(tmp_path / name))
    launcher = ScriptedLauncher()
    limits = EngineLimits(
        num_threads=1, kv_cache_bytes=1, max_batch_tokens=1, max_loaded=2, close_timeout_s=5
    )
    pool = EnginePool(launcher, registry, limits=limits, clock=clock)
    return Bench(pool=pool, launcher=launcher, registry=registry, clock=clock)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (conditions of several objects)
            await asyncio.sleep(0)


async def test_fifty_askers_share_one_load(bench: Bench) -> None:
    bench.launcher.gate.close()
    asking = [asyncio.create_task(bench.ask("a", f"text {i}")) for i in range(50)]
    await _until(lambda: bench.launcher.gate.num_waiting == 1)
    bench.launcher.gate.open()
    assert await asyncio.gather(*asking) == [f"text {i}" for i in range(50)]
    assert bench.loads() == ["a"]


async def test_no_more_than_the_limit_wait_for_a_load(bench: Bench) -> None:
    await bench.registry.get(PROJECT, "a")  # from now on known: every asker waits for the load
    bench.launcher.gate.close()
    limit = LIMITS.loading_requests
    asking = [asyncio.create_task(bench.ask("a")) for _ in range(limit)]
    await _until(lambda: bench.launcher.gate.num_waiting == 1)
    async with asyncio.timeout(10):
        with pytest.raises(CapacityError, match="wait for the model"):
            await bench.ask("a")
    asking[-1].cancel()
    await asyncio.wait(asking[-1:])
    asking[-1] = asyncio.create_task(bench.ask("a"))
    bench.launcher.gate.open()
    assert await asyncio.gather(*asking) == ["hi"] * limit


async def test_an_asker_that_gives_up_does_not_take_the_load_away(bench: Bench) -> None:
    bench.launcher.gate.close()
    first, second = (asyncio.create_task(bench.ask("a")) for _ in range(2))
    await _until(lambda: bench.launcher.gate.num_waiting == 1)
    first.cancel()
    await asyncio.wait([first])
    bench.launcher.gate.open()
    assert await second == "hi"
    assert bench.loads() == ["a"]


async def test_the_least_recently_used_idle_model_leaves(bench: Bench) -> None:
    for name in ("a", "b", "a"):
        bench.clock.advance(1)
        await bench.ask(name)
    bench.clock.advance(1)
    await bench.ask("c")
    assert bench.loaded() == {"a", "c"}
    assert bench.launcher.engines["b"][0].is_closed


async def test_a_model_in_use_is_not_evicted(bench: Bench) -> None:
    await bench.ask("b")
    async with bench.pool.use(PROJECT, "a"), bench.pool.use(PROJECT, "b"):
        with pytest.raises(CapacityError, match="places"):
            await bench.ask("c")
    assert bench.loaded() == {"a", "b"}
    assert await bench.ask("c") == "hi"


@pytest.mark.row("CRA-17")
async def test_the_first_crash_restarts_and_others_back_off_until_the_breaker_opens(
    bench: Bench,
) -> None:
    for crashes in (1, 2):
        bench.clock.advance(10)
        await bench.ask("b")  # another model is not concerned
        async with bench.pool.use(PROJECT, "a") as (_, engine):
            bench.launcher.engines["a"][-1].crash()
            assert not engine.is_alive
        assert len(bench.launcher.engines["a"]) == crashes
    bench.clock.advance(10)
    bench.launcher.failures = [WorkerCrashedError("it died while loading")]
    with pytest.raises(WorkerCrashedError):
        await bench.ask("a")
    with pytest.raises(CapacityError, match="crashed 3 times"):
        await bench.ask("a")
    assert len(bench.loads()) == 4
    bench.clock.advance(30)
    assert await bench.ask("a") == "hi"
    assert bench.pool.num_restarts == 3


async def test_a_model_that_never_loads_is_refused_the_same_way_for_ever(bench: Bench) -> None:
    for _ in range(1_100):  # a night of tries: a pause that doubles would fit no float
        bench.clock.advance(60)
        bench.launcher.failures = [WorkerCrashedError("it died while loading")]
        with pytest.raises(WorkerCrashedError):
            await bench.ask("a")


async def test_success_forgets_earlier_crashes(bench: Bench) -> None:
    for _ in range(5):
        bench.clock.advance(10)
        await bench.ask("a")
        bench.launcher.engines["a"][-1].crash()
    bench.clock.advance(10)
    assert await bench.ask("a") == "hi"


@pytest.mark.row("CRA-17")
async def test_a_crash_ends_the_request_and_the_next_one_is_served(bench: Bench) -> None:
    async with bench.pool.use(PROJECT, "a"):
        bench.launcher.engines["a"][0].crash_after_tokens = 2
    with pytest.raises(WorkerCrashedError):
        await bench.ask("a", "longer text")
    bench.clock.advance(1)
    assert await bench.ask("a") == "hi"


@pytest.mark.row("CRA-19")
async def test_a_folder_that_does_not_load_is_tried_again_when_asked_again(bench: Bench) -> None:
    for _ in range(4):
        bench.launcher.failures = [InvalidCheckpointError("a tensor is missing")]
        with pytest.raises(InvalidCheckpointError):
            await bench.ask("a")
    assert await bench.ask("a") == "hi"


async def test_an_unknown_or_foreign_model_is_not_found(bench: Bench) -> None:
    for project, name in ((PROJECT, "nope"), ("proj_other", "a")):
        with pytest.raises(ModelNotFoundError):
            async with bench.pool.use(project, name):
                pass
    assert bench.loads() == []


@pytest.mark.row("CRA-19")
async def test_a_forgotten_model_finishes_what_runs_and_is_loaded_anew(bench: Bench) -> None:
    async with bench.pool.use(PROJECT, "a") as (_, engine):
        await bench.pool.forget(PROJECT, "a")
        assert engine.is_alive
    await _until(lambda: not engine.is_alive)
    assert await bench.ask("a") == "hi"
    assert bench.loads() == ["a", "a"]


async def test_draining_refuses_new_work_and_ends_every_engine(bench: Bench) -> None:
    await bench.ask("b")
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> str:
        async with bench.pool.use(PROJECT, "a") as (_, engine):
            entered.set()
            await leave.wait()
            return "done" if engine.is_alive else "cut off"

    holding = asyncio.create_task(hold())
    await entered.wait()
    draining = asyncio.create_task(bench.pool.drain(30))
    await _until(lambda: bench.launcher.engines["b"][0].is_closed)
    with pytest.raises(ShuttingDownError):
        await bench.ask("a")
    leave.set()
    assert await holding == "done"
    await draining
    assert bench.launcher.engines["a"][0].is_closed
    assert bench.loaded() == set()


async def test_draining_does_not_wait_for_a_load(bench: Bench) -> None:
    bench.launcher.gate.close()
    asking = asyncio.create_task(bench.ask("a"))
    await _until(lambda: bench.launcher.gate.num_waiting == 1)
    await bench.pool.drain(5)
    with pytest.raises(ShuttingDownError):
        await asking
