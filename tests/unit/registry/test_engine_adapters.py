"""Adapters are served by the engine of their base: one load for many, dropped under pressure."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from purvey.contracts.adapter import DropAdapter
from purvey.contracts.deployment import Profile
from purvey.contracts.engine import Generate, Score, TextPrompt, Tokenize
from purvey.contracts.ids import new_id
from purvey.errors import (
    AdapterNotLoadedError,
    CapacityError,
    IntegrityError,
    InvalidCheckpointError,
    MethodUnsupportedError,
    ModelNotFoundError,
    SettingError,
    WorkerCrashedError,
)
from purvey.registry.engines.memory import PROCESS_BYTES
from purvey.store.database import Database
from purvey.telemetry.metrics import REGISTRY
from purvey.testing.clock import FakeClock
from purvey.testing.scripted_engine import ScriptedEngine
from tests.unit.registry.engine_bench import PROJECT, Bench, make_bench, said, until

Make = Callable[..., Awaitable[Bench]]
ENGINE = PROCESS_BYTES + 4_096
"""What a scripted engine without adapters takes once it is loaded."""


@pytest.fixture
async def make(tmp_path: Path, clock: FakeClock, project_database: Database) -> AsyncIterator[Make]:
    made: list[Bench] = []

    async def make(**changes: float) -> Bench:
        bench = await make_bench(tmp_path, clock, project_database, **changes)
        await bench.adapt("a", "x", "y", "z")
        made.append(bench)
        return bench

    yield make
    for bench in made:
        await bench.pool.drain(1)


def _engine(bench: Bench, name: str = "a") -> ScriptedEngine:
    return bench.launcher.engines[name][-1]


def _digests(bench: Bench, name: str = "a") -> set[str]:
    return set(_engine(bench, name).stats.adapters)


async def _digest(bench: Bench, name: str) -> str:
    return (await bench.registry.get(PROJECT, name)).digest


async def test_a_base_and_its_adapters_share_one_engine(make: Make) -> None:
    bench = await make()
    for name in ("x", "a", "y", "x"):
        assert await bench.ask(name) == "hi"
    assert bench.loads() == ["a"]
    asked = [q.adapter for q in _engine(bench).requests if isinstance(q, Generate)]
    x, y = await _digest(bench, "x"), await _digest(bench, "y")
    assert asked == [x, "", y, x]
    assert _digests(bench) == {x, y}
    [shown] = bench.pool.engines()
    assert [(one.name, one.num_bytes) for one in shown.adapters] == [("x", 64), ("y", 64)]
    assert shown.num_bytes == ENGINE + 2 * 64
    async with bench.pool.use(PROJECT, "x") as (record, engine):
        assert record.name == "x"
        assert engine.model.has_chat_template
        assert engine.stats is not None
        assert engine.stats.running == 0


async def test_everything_that_is_asked_names_the_adapter(make: Make) -> None:
    bench = await make()
    prompt = TextPrompt(text="hi")
    async with bench.pool.use(PROJECT, "x") as (_, engine):
        await engine.score(Score(request_id=new_id("req_"), pairs=((prompt, prompt),)))
        await engine.tokenize(Tokenize(request_id=new_id("req_"), prompt=prompt))
    asked = [q.adapter for q in _engine(bench).requests if isinstance(q, Score | Tokenize)]
    assert asked == [await _digest(bench, "x")] * 2


async def test_fifty_askers_share_one_load(make: Make) -> None:
    bench = await make()
    await bench.ask("a")
    _engine(bench).gate.close()
    before = REGISTRY.get_sample_value("purvey_adapter_loads_total") or 0
    asking = [asyncio.create_task(bench.ask("x", f"text {i}")) for i in range(50)]
    await until(lambda: bench.adapters("a") == {"x": "loading"})
    asking.pop(0).cancel()  # one that gives up does not take the load from the others
    _engine(bench).gate.open()
    assert await asyncio.gather(*asking) == [f"text {i}" for i in range(1, 50)]
    assert REGISTRY.get_sample_value("purvey_adapter_loads_total") == before + 1
    assert bench.loads() == ["a"]


async def test_no_more_than_the_limit_wait_for_a_load(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class _Limits:
        loading_requests, waiting_models = 2, 64

    bench = await make()
    await bench.ask("a")
    monkeypatch.setattr("purvey.registry.engines.adapters.LIMITS", _Limits())
    _engine(bench).gate.close()
    asking = [asyncio.create_task(bench.ask("x")) for _ in range(3)]
    (refused,), waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises(CapacityError, match="'x' to load"):
        await refused
    _engine(bench).gate.open()
    assert await asyncio.gather(*waiting) == ["hi"] * 2


async def test_a_load_whose_askers_all_left_stays_for_the_next(make: Make) -> None:
    bench = await make()
    await bench.ask("a")
    _engine(bench).gate.close()
    asking = asyncio.create_task(bench.ask("x"))
    await until(lambda: bench.adapters("a") == {"x": "loading"})
    asking.cancel()
    await asyncio.wait([asking])
    _engine(bench).gate.open()
    await until(lambda: bench.adapters("a") == {"x": "ready"})
    assert await bench.ask("x") == "hi"


async def test_an_adapter_that_does_not_load_leaves_nothing_behind(make: Make) -> None:
    bench = await make()
    await bench.ask("y")
    _engine(bench).refusals = [InvalidCheckpointError("the adapter holds no finite numbers.")]
    with pytest.raises(InvalidCheckpointError):
        await bench.ask("x")
    assert bench.adapters("a") == {"y": "ready"}
    assert bench.pool.engines()[0].num_bytes == ENGINE + 64
    assert await bench.ask("x") == "hi"


async def test_changed_bytes_are_not_loaded(make: Make) -> None:
    bench = await make()
    (bench.folder / "x" / "README.md").write_text("new", encoding="utf-8")
    with pytest.raises(IntegrityError):
        await bench.ask("x")
    assert bench.adapters("a") == {}
    assert await bench.ask("a") == "hi"


async def test_what_the_engine_has_lost_is_loaded_again(make: Make) -> None:
    bench = await make()
    await bench.ask("x")
    prompt = TextPrompt(text="hi")
    for is_generated in (True, False):
        lost = DropAdapter(request_id=new_id("req_"), adapter=await _digest(bench, "x"))
        await _engine(bench).drop_adapter(lost)
        again = bench.ask("x") if is_generated else _tokenized(bench, "x", prompt)
        assert await again == "hi"
    assert bench.loads() == ["a"]
    assert bench.pool.engines()[0].num_bytes == ENGINE + 64


async def _tokenized(bench: Bench, name: str, prompt: TextPrompt) -> str:
    async with bench.pool.use(PROJECT, name) as (_, engine):
        found = await engine.tokenize(Tokenize(request_id=new_id("req_"), prompt=prompt))
    return "".join(found.texts)


async def test_an_adapter_that_is_always_lost_is_refused_in_the_end(make: Make) -> None:
    bench = await make()
    await bench.ask("x")
    lost = [AdapterNotLoadedError("lost") for _ in range(3)]
    _engine(bench).refusals = [lost[0], lost[1]]
    with pytest.raises(AdapterNotLoadedError):
        await bench.ask("x")


async def test_a_crash_takes_the_adapters_and_they_are_loaded_again(make: Make) -> None:
    bench = await make()
    await bench.ask("x")
    await bench.ask("y")
    _engine(bench).crash()
    bench.clock.advance(10)
    assert await bench.ask("x") == "hi"
    assert bench.loads() == ["a", "a"]
    assert bench.adapters("a") == {"x": "ready"}
    assert bench.pool.engines()[0].num_bytes == ENGINE + 64


async def test_a_crash_while_an_adapter_loads_is_tried_again_once(make: Make) -> None:
    bench = await make(backoff_s=0)
    await bench.ask("a")
    _engine(bench).crash_after_tokens = 0  # its next step is the load
    assert await bench.ask("x") == "hi"
    assert bench.loads() == ["a", "a"]
    dying = bench.launcher.launch

    async def launch(load: object) -> ScriptedEngine:
        engine = await dying(load)  # type: ignore[arg-type]  # what the loader passes on
        engine.crash_after_tokens = 0
        return engine

    _engine(bench).crash()
    bench.launcher.launch = launch  # type: ignore[method-assign]
    with pytest.raises(WorkerCrashedError):
        await bench.ask("x")
    assert bench.loads() == ["a"] * 4


async def test_idle_adapters_leave_for_others_of_their_engine(make: Make) -> None:
    bench = await make(adapter_bytes=2 * 64 + 16)
    for name in ("x", "y", "x"):
        bench.clock.advance(1)
        await bench.ask(name)
    sample = ("purvey_adapter_drops_total", {"reason": "room"})
    before = REGISTRY.get_sample_value(*sample) or 0
    bench.clock.advance(1)
    assert await bench.ask("z") == "hi"  # by the header two and this one fit; the engine says no
    assert bench.adapters("a") == {"x": "ready", "z": "ready"}
    assert _digests(bench) == {await _digest(bench, "x"), await _digest(bench, "z")}
    assert REGISTRY.get_sample_value(*sample) == before + 1
    assert bench.pool.engines()[0].num_bytes == ENGINE + 2 * 64
    assert await bench.ask("y") == "hi"
    assert bench.loads() == ["a"]


async def test_an_adapter_waits_until_another_of_its_engine_is_idle(make: Make) -> None:
    bench = await make(adapter_bytes=64)
    async with bench.pool.use(PROJECT, "x"):
        asking = asyncio.create_task(bench.ask("y"))
        await until(lambda: bench.adapters("a").get("y") == "waiting")
        assert not asking.done()
    assert await asking == "hi"
    assert bench.adapters("a") == {"y": "ready"}


async def test_an_adapter_that_gets_no_room_is_refused(make: Make) -> None:
    bench = await make(adapter_bytes=64, room_wait_s=0.01)
    async with bench.pool.use(PROJECT, "x"):
        with pytest.raises(CapacityError, match="all others of its base are in use"):
            await bench.ask("y")
    assert await bench.ask("y") == "hi"


async def test_an_adapter_that_never_fits_is_refused_with_the_arithmetic(make: Make) -> None:
    bench = await make(adapter_bytes=15)
    with pytest.raises(SettingError, match="takes 16 bytes, and adapter_bytes is 15 bytes"):
        await bench.ask("x")
    assert await bench.ask("a") == "hi"


async def test_a_budget_that_holds_no_adapter_says_so(make: Make) -> None:
    bench = await make(memory_bytes=ENGINE + 15)
    with pytest.raises(SettingError, match=r"base 288 MiB \+ adapter 16 bytes"):
        await bench.ask("x")
    assert await bench.ask("a") == "hi"


async def test_under_pressure_adapters_leave_before_engines(make: Make) -> None:
    bench = await make(memory_bytes=2 * ENGINE + 64)
    for name in ("b", "x", "a"):  # the adapter has been idle for less long than `b`
        bench.clock.advance(1)
        await bench.ask(name)
    assert bench.adapters("a") == {"x": "ready"}
    bench.clock.advance(1)
    await bench.ask("y")
    assert bench.loaded() == {"a", "b"}
    assert bench.adapters("a") == {"y": "ready"}
    assert bench.pool.num_evictions[PROJECT] == 0


async def test_where_adapters_are_not_enough_engines_leave_and_adapters_stay(make: Make) -> None:
    bench = await make(memory_bytes=2 * ENGINE + 64)
    for name in ("b", "x", "c"):
        bench.clock.advance(1)
        await bench.ask(name)
    assert bench.loaded() == {"a", "c"}
    assert bench.adapters("a") == {"x": "ready"}


async def test_an_adapter_in_use_keeps_its_engine(make: Make) -> None:
    bench = await make(memory_bytes=ENGINE + 64, yield_after_s=60.0)
    async with bench.pool.use(PROJECT, "x"):
        asking = asyncio.create_task(bench.ask("b"))
        await until(lambda: bench.states().get("b") == "waiting")
        assert bench.adapters("a") == {"x": "ready"}
    assert await asking == "hi"
    assert bench.loaded() == {"b"}


async def test_adapters_of_two_full_engines_do_not_wait_for_each_other_for_ever(
    make: Make,
) -> None:
    """Each waits for room in an engine that the other one's engine would have to give up."""
    bench = await make(memory_bytes=2 * ENGINE + 15, yield_after_s=0.01)
    await bench.adapt("b", "v")
    await bench.ask("a")
    await bench.ask("b")
    async with asyncio.timeout(10):
        assert set(await asyncio.gather(bench.ask("x"), bench.ask("v"))) == {"hi"}


async def test_stopping_an_adapter_leaves_its_base(make: Make) -> None:
    bench = await make()
    await bench.ask("x")
    await bench.ask("y")
    assert await bench.pool.unload(PROJECT, "x") == 1
    await until(lambda: bench.adapters("a") == {"y": "ready"})
    assert bench.loaded() == {"a"}
    assert _digests(bench) == {await _digest(bench, "y")}
    assert await bench.pool.unload(PROJECT, "x") == 0
    assert await bench.pool.unload(PROJECT, "a") == 1
    await until(lambda: not bench.states())


async def test_a_deleted_adapter_leaves_when_what_runs_with_it_has_ended(make: Make) -> None:
    bench = await make()
    digest = await _digest(bench, "x")
    async with bench.pool.use(PROJECT, "x") as (_, engine):
        await bench.registry.delete(PROJECT, "x")
        bench.pool.forget(PROJECT, "x")
        assert bench.adapters("a") == {"x": "leaving"}
        prompt = TextPrompt(text="still")
        found = await engine.tokenize(Tokenize(request_id=new_id("req_"), prompt=prompt))
        assert found.texts == tuple("still")
        with pytest.raises(ModelNotFoundError):
            await bench.ask("x")
        assert _digests(bench) == {digest}
    await until(lambda: not bench.adapters("a"))
    assert _digests(bench) == set()
    assert await bench.ask("a") == "hi"


async def test_a_second_name_of_the_same_adapter_goes_on(make: Make) -> None:
    bench = await make()
    await bench.registry.register_folder(PROJECT, "twin", bench.folder / "x", base="a")
    await bench.ask("twin")
    async with bench.pool.use(PROJECT, "x"):
        await bench.registry.delete(PROJECT, "x")
        bench.pool.forget(PROJECT, "x")
        assert await bench.ask("twin") == "hi"
        assert bench.adapters("a") == {"twin": "ready"}
    assert await bench.ask("twin") == "hi"


async def test_an_adapter_that_is_asked_for_while_it_is_dropped_is_loaded_again(
    make: Make,
) -> None:
    bench = await make()
    await bench.ask("x")
    _engine(bench).gate.close()
    await bench.pool.unload(PROJECT, "x")
    assert bench.adapters("a") == {"x": "leaving"}
    asking = asyncio.create_task(bench.ask("x"))
    await asyncio.sleep(0.01)
    _engine(bench).gate.open()
    assert await asking == "hi"
    assert bench.adapters("a") == {"x": "ready"}


async def test_an_engine_that_takes_no_adapters_has_them_merged(make: Make) -> None:
    bench = await make()
    await bench.ask("a")
    _engine(bench).refusals = [MethodUnsupportedError("this model takes no adapters")]
    assert await bench.ask("x") == "hi"
    assert await bench.ask("y") == "hi"
    assert bench.loads() == ["a", "x", "y"]
    assert bench.launcher.loads[1].source.base_folder == str(bench.folder / "a")
    assert [one.name for one in bench.pool.engines()] == ["x", "y"], "the base has left for them"
    assert await bench.pool.unload(PROJECT, "y") == 1


async def test_adapters_are_kept_as_their_profiles_say(make: Make) -> None:
    bench = await make(keep_alive_s=10)
    await bench.deploy("brief", "x", default=Profile(keep_alive_s=0))
    await bench.deploy("long", "y", default=Profile(keep_alive_s=60))
    await bench.ask("brief")
    await until(lambda: not bench.adapters("a"))
    assert bench.loaded() == {"a"}
    await bench.ask("long")
    await bench.ask("z")
    bench.clock.advance(11)
    bench.pool.expire()
    await until(lambda: bench.adapters("a") == {"y": "ready"})
    assert bench.loaded() == {"a"}, "an adapter that stays keeps its base"
    bench.clock.advance(50)
    bench.pool.expire()
    await until(lambda: not bench.states())


async def test_a_pinned_adapter_is_loaded_and_keeps_its_base(make: Make) -> None:
    bench = await make(memory_bytes=ENGINE + 64 + 15, max_loaded=16)
    await bench.deploy("pinned", "x", default=Profile(is_pinned=True))
    await until(lambda: bench.adapters("a") == {"x": "ready"})
    [shown] = bench.pool.engines()
    assert shown.is_pinned
    assert shown.adapters[0].is_pinned
    with pytest.raises(CapacityError, match="pinned"):
        await bench.ask("b")
    await bench.change("pinned", default=Profile())
    await bench.ask("b")
    assert bench.loaded() == {"b"}


async def test_a_profile_chooses_an_adapter(make: Make) -> None:
    bench = await make()
    await bench.deploy("s", "a", default=Profile(), mine=Profile(adapter="x"))
    async with bench.pool.use(PROJECT, "s:mine") as (record, _):
        assert record.name == "x"
    async with bench.pool.use(PROJECT, "s") as (record, _):
        assert record.name == "a"
    assert bench.loads() == ["a"]
    await bench.change("s", mine=Profile(adapter="y"))  # its successor is loaded
    await until(lambda: bench.adapters("a").get("y") == "ready")
    assert await bench.pool.unload(PROJECT, "s:mine") == 1
    await until(lambda: "y" not in bench.adapters("a"))
    assert bench.loaded() == {"a"}


async def test_a_profile_whose_adapter_is_another_in_a_precision_of_its_own(make: Make) -> None:
    bench = await make()
    await bench.deploy("s", "a", mine=Profile(adapter="x", precision="int8"))
    await bench.ask("s:mine")
    assert bench.loads() == ["a"]
    await bench.change("s", mine=Profile(adapter="y", precision="int8"))
    await until(lambda: bench.adapters("a") == {"y": "ready"})  # nothing else wants `x` so
    await bench.change("s", mine=None)
    await until(lambda: not bench.adapters("a"))


async def test_nothing_is_lost_while_adapters_come_and_go(make: Make) -> None:
    """Random use and stops in a budget that holds few of them: every request is answered."""
    bench = await make(memory_bytes=2 * ENGINE + 2 * 64, adapter_bytes=3 * 64, yield_after_s=0.01)
    await bench.adapt("b", "u", "v", "w")
    rng, names = Random(7), "abuvwxyz"  # noqa: S311 (a test's chance)

    async def one(number: int) -> None:
        name, text = rng.choice(names), f"text {number}"
        async with bench.pool.use(PROJECT, name) as (record, engine):
            assert record.name == name
            await asyncio.sleep(0.001 * rng.random())
            assert await said(engine, text) == text
        if rng.random() < 0.2:
            await bench.pool.unload(PROJECT, rng.choice(names))

    async with asyncio.timeout(30):
        for start in range(0, 200, 20):
            await asyncio.gather(*(one(number) for number in range(start, start + 20)))
    bench.pool.check()
    await bench.pool.drain(1)
    assert bench.pool.engines() == []
