"""Memory of all engines together: who gets it, who leaves for it, and when."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from purvey.contracts.deployment import EngineOptions, Precision
from purvey.contracts.model import ModelSource
from purvey.errors import CapacityError, SettingError
from purvey.registry.engines.memory import PROCESS_BYTES, Needs, size
from purvey.store.database import Database
from purvey.telemetry import metrics
from purvey.telemetry.metrics import REGISTRY
from purvey.testing.clock import FakeClock
from purvey.testing.model_folder import safetensors_bytes
from tests.unit.registry.engine_bench import PROJECT, Bench, make_bench, until

Make = Callable[..., Awaitable[Bench]]
TWO = PROCESS_BYTES * 5 // 2
"""A budget that holds two of the little models, and no third."""


@pytest.fixture
async def make(tmp_path: Path, clock: FakeClock, project_database: Database) -> AsyncIterator[Make]:
    made: list[Bench] = []

    async def make(**changes: float) -> Bench:
        limits = {"memory_bytes": TWO, "max_loaded": 16, "yield_after_s": 60.0} | changes
        made.append(await make_bench(tmp_path, clock, project_database, **limits))
        return made[-1]

    yield make
    for bench in made:
        await bench.pool.drain(1)


async def _leaving_done(bench: Bench) -> None:
    await until(lambda: "leaving" not in bench.states().values())


def _folder(folder: Path, **files: dict[str, list[int]]) -> ModelSource:
    """Write files of BF16 matrices: name to shape, by file."""
    folder.mkdir()
    for file, shapes in files.items():
        header, end = {}, 0
        for name, (rows, columns) in shapes.items():
            start, end = end, end + 2 * rows * columns
            header[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [start, end]}
        content = safetensors_bytes(header, num_bytes=end)
        (folder / f"{file}.safetensors").write_bytes(content)
    return ModelSource(name="m", folder=str(folder), digest="d")


EMBEDDING = {"model.embed_tokens.weight": [50, 10]}


@pytest.mark.parametrize(
    ("precision", "per_weight"),
    [("fp32", 4), ("bf16", 2), ("int8", 1), ("int4", 0.625), ("auto", 4)],
)
def test_a_need_is_weights_cache_and_workspace(
    tmp_path: Path, precision: Precision, per_weight: float
) -> None:
    source = _folder(tmp_path / "m", model=EMBEDDING | {"layer.weight": [50, 10]})
    needs = Needs(kv_cache_bytes=5_000, max_batch_tokens=7)
    need = needs.count(source, "text-generation", EngineOptions(precision=precision))
    assert need.weights_bytes == 1_000 * per_weight + 50 * 10 * 2
    assert need.cache_bytes == 5_000
    assert need.workspace_bytes == PROCESS_BYTES + 4 * 7 * (2 * 50 + 40 * 10)
    assert need.num_bytes == need.weights_bytes + need.cache_bytes + need.workspace_bytes


def test_a_head_of_its_own_counts_beside_the_embedding(tmp_path: Path) -> None:
    source = _folder(tmp_path / "m", model=EMBEDDING | {"lm_head.weight": [50, 10]})
    needs = Needs(kv_cache_bytes=0, max_batch_tokens=1)
    need = needs.count(source, "text-generation", EngineOptions(precision="int8"))
    assert need.weights_bytes == 500 * 1 + 500 * 2


def test_a_one_pass_model_is_float32_and_has_no_cache(tmp_path: Path) -> None:
    source = _folder(tmp_path / "m", model=EMBEDDING)
    needs = Needs(kv_cache_bytes=5_000, max_batch_tokens=7)
    need = needs.count(source, "text-classification", EngineOptions(precision="int8"))
    assert need.num_bytes == 500 * 4 + PROCESS_BYTES


def test_shards_count_once_and_an_adapter_as_its_base(tmp_path: Path) -> None:
    source = _folder(
        tmp_path / "m", a={"x": [10, 10]}, b={"y": [20, 10]}, consolidated={"z": [30, 10]}
    )
    index = '{"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "w": "a.safetensors"}}'
    (tmp_path / "m" / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    needs = Needs(kv_cache_bytes=0, max_batch_tokens=1)
    assert needs.count(source, "text-generation", EngineOptions()).num_weights == 300
    adapter = ModelSource(name="a", folder="/none", digest="x", base_folder=source.folder)
    assert needs.count(adapter, "text-generation", EngineOptions()).num_weights == 300


async def test_the_least_recently_used_idle_one_leaves_for_room(make: Make) -> None:
    bench = await make()
    for name in ("a", "b", "a"):
        bench.clock.advance(1)
        await bench.ask(name)
    before = metrics.REGISTRY.get_sample_value("purvey_engine_evictions_total", {"reason": "room"})
    await bench.ask("c")
    assert bench.loaded() == {"a", "c"}
    after = metrics.REGISTRY.get_sample_value("purvey_engine_evictions_total", {"reason": "room"})
    assert after == (before or 0) + 1
    assert (bench.pool.num_loads(PROJECT), bench.pool.num_evictions[PROJECT]) == (3, 1)


async def test_a_model_that_never_fits_is_refused_with_the_arithmetic(make: Make) -> None:
    bench = await make(memory_bytes=PROCESS_BYTES)
    with pytest.raises(SettingError) as caught:
        await bench.ask("a")
    assert f"= {size(PROCESS_BYTES + 17)}" in caught.value.message
    assert "workspace 288 MiB" in caught.value.message
    assert "PURVEY_MODEL_MEMORY_BYTES" in caught.value.hint
    assert bench.loads() == []
    assert bench.states() == {}


async def test_what_an_engine_says_corrects_the_estimate(make: Make) -> None:
    bench = await make()
    bench.launcher.resident_bytes["b"] = PROCESS_BYTES
    await bench.ask("a")
    bench.clock.advance(1)
    await bench.ask("b")  # turns out to need the room of both
    await _leaving_done(bench)
    assert bench.loaded() == {"b"}
    await bench.ask("a")  # and is known to from now on
    assert bench.loaded() == {"a"}
    await bench.ask("b")
    assert bench.loaded() == {"b"}
    assert {e.num_bytes for e in bench.pool.engines()} == {2 * PROCESS_BYTES}


async def test_an_engine_that_takes_more_than_all_may_is_ended_and_known(make: Make) -> None:
    bench = await make()
    bench.launcher.resident_bytes["a"] = TWO
    for how in ("it takes 1008 MiB", "it took 1008 MiB when it was loaded"):
        with pytest.raises(SettingError, match=how):
            await bench.ask("a")
        assert bench.states() == {}
    assert bench.launcher.engines["a"][0].is_closed
    assert bench.loads() == ["a"]


async def test_a_large_one_waits_until_enough_is_idle_and_nobody_leaves_in_vain(make: Make) -> None:
    bench = await make()
    bench.launcher.resident_bytes["c"] = PROCESS_BYTES
    await bench.ask("c")
    await bench.ask("a")
    await bench.ask("b")
    async with bench.pool.use(PROJECT, "a"):
        asking = asyncio.create_task(bench.ask("c"))
        await until(lambda: bench.states().get("c") == "waiting")
        assert bench.loaded() == {"a", "b"}, "b alone is not enough"
    assert await asking == "hi"
    assert bench.loaded() == {"c"}


async def test_who_waits_for_too_long_is_told_to_come_again(make: Make) -> None:
    bench = await make(room_wait_s=0.05)
    async with bench.pool.use(PROJECT, "a"), bench.pool.use(PROJECT, "b"):
        with pytest.raises(CapacityError, match="all others are in use"):
            await bench.ask("c")
        assert bench.loaded() == {"a", "b"}
    assert await bench.ask("c") == "hi"


async def test_the_queue_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purvey.registry.engines.room.LIMITS", _Limits())
    bench = await make(memory_bytes=PROCESS_BYTES * 3 // 2)
    async with bench.pool.use(PROJECT, "a"):
        asking = asyncio.create_task(bench.ask("b"))
        await until(lambda: REGISTRY.get_sample_value("purvey_models_waiting") == 1)
        with pytest.raises(CapacityError, match="1 models wait"):
            await bench.ask("c")
    assert await asking == "hi"


class _Limits:
    waiting_models = 1


async def test_one_that_is_never_idle_is_told_to_take_nothing_new(make: Make) -> None:
    bench = await make(memory_bytes=PROCESS_BYTES * 3 // 2, yield_after_s=0.01)
    async with bench.pool.use(PROJECT, "a") as (_, engine):
        for_b = asyncio.create_task(bench.ask("b"))
        await until(lambda: bench.states().get("a") == "leaving")
        for_a = asyncio.create_task(bench.ask("a"))
        await until(lambda: len(bench.pool.engines()) == 3)
        assert engine.is_alive, "what runs is not cut off"
        assert bench.loads() == ["a"]
    assert await for_b == await for_a == "hi"
    assert bench.loads() == ["a", "b", "a"]


@pytest.mark.parametrize("seed", range(4))
async def test_three_models_in_a_budget_for_two_are_all_answered(make: Make, seed: int) -> None:
    bench = await make(yield_after_s=0.005)
    random = Random(seed)  # noqa: S311 (an order, no secret)

    async def customer(number: int) -> int:
        for turn in range(6):
            name = random.choice("abc")
            async with bench.pool.use(PROJECT, name) as (record, engine):
                assert (record.name, engine.is_alive) == (name, True)
                assert sum(e.num_bytes for e in bench.pool.engines()) <= TWO
                await asyncio.sleep(0.001 * ((number + turn) % 3))
                assert engine.is_alive, "nothing that runs is ended"
            if random.random() < 0.1:
                await bench.pool.unload(PROJECT, random.choice("abc"))
            bench.pool.check()
        return turn

    assert await asyncio.gather(*(customer(number) for number in range(8))) == [5] * 8
    await _leaving_done(bench)
    assert bench.pool.num_evictions[PROJECT] > 0
    assert bench.pool.num_loads(PROJECT) == len(bench.loads())
    resident = len(bench.pool.engines())
    assert len(bench.loads()) - bench.pool.num_evictions[PROJECT] == resident <= 2


async def test_an_idle_model_leaves_when_its_time_is_over(make: Make) -> None:
    bench = await make(keep_alive_s=60.0)
    await bench.ask("a")
    bench.clock.advance(40)
    await bench.ask("b")
    shown = {e.name: (e.idle_s, e.expires_in_s) for e in bench.pool.engines()}
    assert shown == {"a": (40, 20), "b": (0, 60)}
    bench.clock.advance(20)
    async with bench.pool.use(PROJECT, "b"):
        bench.pool.expire()
        await _leaving_done(bench)
        bench.clock.advance(1_000)
        bench.pool.expire()
        assert bench.loaded() == {"b"}, "in use"
    bench.pool.expire()
    assert bench.loaded() == {"b"}, "used just now"


async def test_nothing_is_kept_where_nothing_is_to_be(make: Make) -> None:
    bench = await make(keep_alive_s=0)
    assert await bench.ask("a") == "hi"
    await until(lambda: bench.pool.engines() == [])


async def test_a_stopped_model_ends_what_it_runs_and_comes_back_when_asked(make: Make) -> None:
    bench = await make()
    async with bench.pool.use(PROJECT, "a") as (_, engine):
        assert await bench.pool.unload(PROJECT, "a") == 1
        assert bench.states() == {"a": "leaving"}
        assert engine.is_alive
    await until(lambda: not engine.is_alive)
    assert await bench.pool.unload(PROJECT, "a") == 0
    assert await bench.ask("a") == "hi"


async def test_a_model_stopped_while_it_loads_still_answers_who_has_asked(make: Make) -> None:
    bench = await make()
    bench.launcher.gate.close()
    asking = asyncio.create_task(bench.ask("a"))
    await until(lambda: bench.states() == {"a": "loading"})
    assert await bench.pool.unload(PROJECT, "a") == 1
    bench.launcher.gate.open()
    assert await asking == "hi"
    await until(lambda: bench.pool.engines() == [])


async def test_draining_cuts_off_what_was_to_leave_in_its_own_time(make: Make) -> None:
    bench = await make()
    async with bench.pool.use(PROJECT, "a") as (_, engine):
        await bench.pool.unload(PROJECT, "a")
        await bench.pool.drain(0.01)
        assert not engine.is_alive


async def test_who_holds_a_dead_engine_gets_the_room_of_it(make: Make) -> None:
    """As a request does whose turn had not come, and that is given to the next engine."""
    bench = await make(memory_bytes=PROCESS_BYTES * 3 // 2)
    async with bench.pool.use(PROJECT, "a"):
        await bench.pool.unload(PROJECT, "a")
        bench.launcher.engines["a"][0].crash()
        assert await bench.ask("a") == "hi"


async def test_a_dead_engine_holds_no_room(make: Make) -> None:
    bench = await make(memory_bytes=PROCESS_BYTES * 3 // 2)
    async with bench.pool.use(PROJECT, "a"):
        bench.launcher.engines["a"][0].crash()
        asking = asyncio.create_task(bench.ask("b"))
        await until(lambda: bench.states().get("b") == "waiting")
    assert await asking == "hi"
