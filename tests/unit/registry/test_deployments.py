"""Names that mean a model and a way to serve it, changed while they serve."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from purvey.contracts.deployment import GenerationDefaults, Profile
from purvey.errors import (
    CapacityError,
    ConflictError,
    InUseError,
    InvalidCheckpointError,
    InvalidValueError,
    ModelNotFoundError,
    NotFoundError,
)
from purvey.registry.engines.memory import PROCESS_BYTES
from purvey.store.database import Database
from purvey.testing.clock import FakeClock
from purvey.testing.model_folder import write_plausible_folder
from tests.unit.registry.engine_bench import PROJECT, Bench, make_bench, until

TWO = PROCESS_BYTES * 5 // 2


@pytest.fixture
async def bench(
    tmp_path: Path, clock: FakeClock, project_database: Database
) -> AsyncIterator[Bench]:
    made = await make_bench(tmp_path, clock, project_database, memory_bytes=TWO, max_loaded=16)
    yield made
    await made.pool.drain(1)


async def test_a_name_is_looked_up_whole_then_by_its_last_colon(
    bench: Bench, tmp_path: Path
) -> None:
    fast = Profile(precision="int8")
    await bench.deploy("chat:v1", "a", fast=fast)
    served = await bench.deployments.directory.served(PROJECT, "chat:v1:fast")
    assert (served.record.name, served.profile, served.is_profile) == ("a", fast, True)
    served = await bench.deployments.directory.served(PROJECT, "chat:v1")
    assert (served.record.name, served.profile, served.is_profile) == ("a", Profile(), False)
    whole = write_plausible_folder(tmp_path / "whole")
    await bench.registry.register_folder(PROJECT, "chat:v1:fast", whole)
    served = await bench.deployments.directory.served(PROJECT, "chat:v1:fast")
    assert served.record.name == "chat:v1:fast"
    for name in ("chat", "chat:v1:", "chat:v1:no", ":fast", "a:fast"):
        with pytest.raises(ModelNotFoundError):
            await bench.deployments.directory.served(PROJECT, name)
    with pytest.raises(ModelNotFoundError):
        await bench.deployments.directory.served("proj_other", "chat:v1")


async def test_a_deployment_may_bear_its_models_name_and_no_others(bench: Bench) -> None:
    await bench.deploy("a", "a", default=Profile(precision="bf16"))
    assert (await bench.deployments.directory.served(PROJECT, "a")).options.precision == "bf16"
    with pytest.raises(ConflictError, match="another model"):
        await bench.deploy("b", "a")
    with pytest.raises(ConflictError, match="already"):
        await bench.deploy("a", "a")
    with pytest.raises(ModelNotFoundError):
        await bench.deploy("d", "nope")


async def test_what_does_not_suit_the_model_is_refused_by_name(bench: Bench) -> None:
    with pytest.raises(InvalidValueError) as caught:
        await bench.deploy("d", "a", fast=Profile(batch_window_ms=1))
    assert caught.value.param == "profiles.fast.batch_window_ms"
    with pytest.raises(NotFoundError):
        bench.deployments.directory.get(PROJECT, "d")


async def test_profiles_of_one_precision_share_an_engine_and_others_do_not(bench: Bench) -> None:
    short = Profile(generation=GenerationDefaults(max_tokens=1))
    await bench.deploy("d", "a", default=short, exact=Profile(precision="fp32"))
    for name in ("a", "d", "d:default", "d:exact"):
        assert await bench.ask(name) == "hi"
    assert bench.precisions() == ["auto", "fp32"]


async def test_a_new_precision_loads_before_the_old_leaves_and_ends_nothing(bench: Bench) -> None:
    await bench.deploy("d", "a", fast=Profile(precision="int8"))
    async with bench.pool.use(PROJECT, "d:fast") as (_, engine):
        bench.launcher.gate.close()
        await bench.change("d", fast=Profile(precision="bf16"))
        await until(lambda: bench.launcher.gate.num_waiting == 1)
        assert bench.precisions() == ["int8"], "the successor is not there yet"
        bench.launcher.gate.open()
        await until(lambda: bench.precisions() == ["bf16"])
        assert engine.is_alive
        assert await bench.ask("d:fast") == "hi"
    await until(lambda: not engine.is_alive)
    assert bench.loads() == ["a", "a"]


async def test_a_new_precision_where_only_one_fits_still_answers(bench: Bench) -> None:
    bench.launcher.resident_bytes["a"] = PROCESS_BYTES
    await bench.deploy("d", "a", fast=Profile(precision="int8"))
    await bench.ask("d:fast")
    await bench.change("d", fast=Profile(precision="bf16"))
    assert await bench.ask("d:fast") == "hi"
    await until(lambda: bench.precisions() == ["bf16"])


async def test_what_is_not_resident_is_not_loaded_by_a_change(bench: Bench) -> None:
    await bench.deploy("d", "a", fast=Profile(precision="int8"))
    await bench.change("d", fast=Profile(precision="bf16"), slow=Profile())
    await asyncio.sleep(0.01)
    assert bench.loads() == []


async def test_a_pinned_model_is_loaded_at_once_and_never_leaves(bench: Bench) -> None:
    await bench.deploy("d", "a", fast=Profile(is_pinned=True, keep_alive_s=1))
    await until(lambda: bench.loaded() == {"a"})
    bench.clock.advance(1_000)
    bench.pool.expire()
    for name in ("b", "c"):
        bench.clock.advance(1)
        await bench.ask(name)
    assert bench.loaded() == {"a", "c"}
    await bench.change("d", fast=None)
    bench.clock.advance(1)
    await bench.ask("b")
    assert bench.loaded() == {"b", "c"}, "unpinned, it is the one idle for longest"


async def test_what_does_not_fit_beside_the_pinned_is_refused_at_once(bench: Bench) -> None:
    await bench.deploy("d", "a", default=Profile(is_pinned=True))
    await bench.deploy("e", "b", default=Profile(is_pinned=True))
    await until(lambda: bench.loaded() == {"a", "b"})
    with pytest.raises(CapacityError, match="pinned are 576 MiB of 720 MiB"):
        await bench.ask("c")


async def test_what_was_pinned_is_loaded_at_the_next_start(
    bench: Bench, tmp_path: Path, clock: FakeClock, project_database: Database
) -> None:
    await bench.deploy("d", "a", fast=Profile(is_pinned=True))
    again = await make_bench(tmp_path, clock, project_database)
    await again.deployments.load()
    tending = asyncio.create_task(again.pool.tend())
    await until(lambda: again.loaded() == {"a"})
    tending.cancel()
    await again.pool.drain(1)


async def test_a_pinned_model_that_does_not_load_is_tried_by_the_next_request(bench: Bench) -> None:
    bench.launcher.failures = [InvalidCheckpointError("a tensor is missing")]
    await bench.deploy("d", "a", default=Profile(is_pinned=True))
    await until(lambda: bench.loads() == ["a"] and not bench.pool.engines())
    assert await bench.ask("d") == "hi"


async def test_an_engine_stays_for_the_most_patient_of_its_profiles(bench: Bench) -> None:
    await bench.deploy("d", "a", x=Profile(keep_alive_s=10), y=Profile(keep_alive_s=20))
    await bench.ask("d:x")
    bench.clock.advance(15)
    bench.pool.expire()
    assert bench.loaded() == {"a"}
    await bench.change("d", y=Profile(keep_alive_s=5))
    bench.pool.expire()
    await until(lambda: bench.pool.engines() == [])


async def test_a_deleted_deployment_lets_its_engine_go(bench: Bench) -> None:
    await bench.deploy("d", "a", fast=Profile(precision="int8", is_pinned=True))
    await until(lambda: bench.precisions() == ["int8"])
    with pytest.raises(InUseError):
        await bench.registry.delete(PROJECT, "a")
    bench.pool.follow(await bench.deployments.delete(PROJECT, "d"), None)
    await until(lambda: bench.pool.engines() == [])
    with pytest.raises(ModelNotFoundError):
        await bench.ask("d")
    await bench.registry.delete(PROJECT, "a")


async def test_a_profile_is_stopped_alone_and_a_model_with_all_its_engines(bench: Bench) -> None:
    await bench.deploy("d", "a", fast=Profile(precision="int8"))
    for name in ("a", "d:fast"):
        await bench.ask(name)
    assert await bench.pool.unload(PROJECT, "d:fast") == 1
    assert bench.precisions() == ["auto"]
    await bench.ask("d:fast")
    assert await bench.pool.unload(PROJECT, "d") == 2
