import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from purvey.contracts.engine import Generate, LoadModel, TextPrompt
from purvey.contracts.ids import new_id
from purvey.contracts.limits import Limits
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import Sampling
from purvey.engine.client import IpcEngine, LocalEngineLauncher
from purvey.errors import (
    CapacityError,
    InternalError,
    InvalidCheckpointError,
    PurveyError,
    WorkerCrashedError,
)
from purvey.testing.engine_process import COMMAND, DEAD_NAME, REFUSED_NAME


def _load(name: str) -> LoadModel:
    source = ModelSource(name=name, folder="/nonexistent", digest="0" * 64)
    return LoadModel(source=source, num_threads=1, kv_cache_bytes=1, max_batch_tokens=1)


def _ask(text: str) -> Generate:
    return Generate(
        request_id=new_id("req_"), prompt=TextPrompt(text=text), sampling=Sampling(max_tokens=4)
    )


@pytest_asyncio.fixture
async def engine(tmp_path: Path) -> AsyncIterator[IpcEngine]:
    client = await LocalEngineLauncher(cwd=tmp_path, command=COMMAND).launch(_load("echo"))
    yield client
    await client.close(timeout_s=5)


async def _consume(engine: IpcEngine, text: str) -> int:
    return len([event async for event in engine.generate(_ask(text))])


@pytest.mark.parametrize(
    ("name", "error"), [(REFUSED_NAME, InvalidCheckpointError), (DEAD_NAME, WorkerCrashedError)]
)
async def test_a_model_that_does_not_load_says_why(
    tmp_path: Path, name: str, error: type[PurveyError]
) -> None:
    with pytest.raises(error):
        await LocalEngineLauncher(cwd=tmp_path, command=COMMAND).launch(_load(name))


async def test_a_load_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    silent = ("sleep", "60")  # ends by its unknown options, or is killed: never a model
    launcher = LocalEngineLauncher(
        cwd=tmp_path, command=("sh", "-c", " ".join(silent)), load_timeout_s=0.05
    )
    with pytest.raises(WorkerCrashedError, match="too long"):
        await launcher.launch(_load("echo"))


async def test_a_dying_process_ends_every_request_on_it(engine: IpcEngine) -> None:
    waiting = [asyncio.create_task(_consume(engine, "!hang")) for _ in range(8)]
    with pytest.raises(WorkerCrashedError):
        await _consume(engine, "!die")
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in ended] == [WorkerCrashedError] * 8
    assert not engine.is_alive


async def test_a_frozen_engine_is_killed_once_it_has_requests(tmp_path: Path) -> None:
    launcher = LocalEngineLauncher(cwd=tmp_path, command=COMMAND, silence_s=0.12)
    frozen = await launcher.launch(_load("echo"))
    os.kill(frozen.pid, signal.SIGSTOP)
    await asyncio.sleep(0.3)
    was_alive = frozen.is_alive
    assert was_alive, "nobody waits for it"
    async with asyncio.timeout(10):
        with pytest.raises(WorkerCrashedError):
            await _consume(frozen, "abcd")
    assert not frozen.is_alive
    await frozen.close(timeout_s=5)


@pytest.mark.row("CRA-25")
async def test_an_engine_whose_loop_is_stuck_is_killed_although_it_tells_its_statistics(
    tmp_path: Path,
) -> None:
    launcher = LocalEngineLauncher(cwd=tmp_path, command=COMMAND, silence_s=0.3)
    stuck = await launcher.launch(_load("echo"))
    async with asyncio.timeout(20):
        with pytest.raises(WorkerCrashedError):
            await _consume(stuck, "!stuck")
    assert not stuck.is_alive
    await stuck.close(timeout_s=5)


async def test_an_engine_with_a_long_step_is_left_to_it_while_layers_are_computed(
    tmp_path: Path,
) -> None:
    launcher = LocalEngineLauncher(cwd=tmp_path, command=COMMAND, silence_s=0.2)
    slow = await launcher.launch(_load("echo"))
    async with asyncio.timeout(20):
        await _consume(slow, "!slow")  # for longer than that after which a step is called stuck
    assert slow.is_alive
    await slow.close(timeout_s=5)


async def test_an_engine_that_tells_its_statistics_may_take_its_time(tmp_path: Path) -> None:
    launcher = LocalEngineLauncher(cwd=tmp_path, command=COMMAND, silence_s=0.6)
    slow = await launcher.launch(_load("echo"))
    waiting = asyncio.create_task(_consume(slow, "!hang"))
    for _ in range(15):
        await asyncio.sleep(0.06)
        await _consume(slow, "a")  # after which the scripted engine tells its statistics
    assert slow.is_alive
    waiting.cancel()
    await slow.close(timeout_s=5)


@pytest.mark.row("NET-09")
@pytest.mark.parametrize("fault", ["!garbage", "!stranger", "!load"])
async def test_an_engine_that_disagrees_is_ended(engine: IpcEngine, fault: str) -> None:
    waiting = asyncio.create_task(_consume(engine, "!hang"))
    provoking = asyncio.create_task(_consume(engine, fault))
    with pytest.raises(InternalError):
        await waiting
    await asyncio.wait([provoking])
    assert not engine.is_alive


async def test_a_reply_that_breaks_the_reader_ends_every_request(
    engine: IpcEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_message: object) -> None:
        raise KeyError("a bug of ours")

    waiting = asyncio.create_task(_consume(engine, "!hang"))
    await _consume(engine, "a")
    monkeypatch.setattr(engine, "_dispatch", broken)
    async with asyncio.timeout(10):
        with pytest.raises(InternalError):
            await _consume(engine, "b")
        with pytest.raises(InternalError):
            await waiting
    assert not engine.is_alive


async def test_answers_to_a_cancelled_request_are_let_pass(engine: IpcEngine) -> None:
    for _ in range(20):
        stream = engine.generate(_ask("some longer text"))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
    assert await _consume(engine, "abcd") == 6
    assert engine.is_alive


async def test_an_engine_that_has_enough_is_not_told_of_more(
    engine: IpcEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purvey.engine.client.LIMITS", Limits(queued_requests=2))
    streams = [engine.generate(_ask("!hang")) for _ in range(2)]
    waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await asyncio.sleep(0)
    with pytest.raises(CapacityError, match="2 requests"):
        await _consume(engine, "a")
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    assert await _consume(engine, "abcd") == 6
    waiting[1].cancel()
    await asyncio.wait(waiting)


async def test_closing_kills_an_engine_that_does_not_drain(engine: IpcEngine) -> None:
    waiting = asyncio.create_task(_consume(engine, "!hang"))
    await _consume(engine, "a")
    await engine.close(timeout_s=0.05)
    with pytest.raises(WorkerCrashedError):
        await waiting
