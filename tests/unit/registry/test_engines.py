"""One engine for each model: loaded once, restarted after crashes, ended with the server."""

import asyncio
from pathlib import Path

import pytest

from purvey.contracts.limits import LIMITS
from purvey.errors import (
    CapacityError,
    InvalidCheckpointError,
    ModelNotFoundError,
    ShuttingDownError,
    WorkerCrashedError,
)
from purvey.store.database import Database
from purvey.testing.clock import FakeClock
from tests.unit.registry.engine_bench import PROJECT, Bench, make_bench, until


@pytest.fixture
async def bench(tmp_path: Path, clock: FakeClock, project_database: Database) -> Bench:
    return await make_bench(tmp_path, clock, project_database)


async def test_fifty_askers_share_one_load(bench: Bench) -> None:
    bench.launcher.gate.close()
    asking = [asyncio.create_task(bench.ask("a", f"text {i}")) for i in range(50)]
    await until(lambda: bench.launcher.gate.num_waiting == 1)
    bench.launcher.gate.open()
    assert await asyncio.gather(*asking) == [f"text {i}" for i in range(50)]
    assert bench.loads() == ["a"]


async def test_no_more_than_the_limit_wait_for_a_load(bench: Bench) -> None:
    await bench.registry.get(PROJECT, "a")  # from now on known: every asker waits for the load
    bench.launcher.gate.close()
    limit = LIMITS.loading_requests
    asking = [asyncio.create_task(bench.ask("a")) for _ in range(limit)]
    await until(lambda: bench.launcher.gate.num_waiting == 1)
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
    await until(lambda: bench.launcher.gate.num_waiting == 1)
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


async def test_a_model_in_use_is_not_evicted_and_another_waits_for_it(bench: Bench) -> None:
    async with bench.pool.use(PROJECT, "b"):
        async with bench.pool.use(PROJECT, "a") as (_, engine):
            asking = asyncio.create_task(bench.ask("c"))
            await until(lambda: bench.states().get("c") == "waiting")
            assert engine.is_alive
            assert bench.loaded() == {"a", "b"}
        assert await asking == "hi"
        assert bench.loaded() == {"b", "c"}


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
        bench.pool.forget(PROJECT, "a")
        assert engine.is_alive
    await until(lambda: not engine.is_alive)
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
    await until(lambda: bench.launcher.engines["b"][0].is_closed)
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
    await until(lambda: bench.launcher.gate.num_waiting == 1)
    await bench.pool.drain(5)
    with pytest.raises(ShuttingDownError):
        await asking
