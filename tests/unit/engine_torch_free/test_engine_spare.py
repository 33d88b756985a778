"""A process that waits for a model: taken once, replaced when it dies, ended with its keeper."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from purvey.contracts.engine import Generate, LoadModel, TextPrompt
from purvey.contracts.ids import new_id
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import Sampling
from purvey.engine import client
from purvey.engine.client import IpcEngine, LocalEngineLauncher
from purvey.engine.spare import Spare, StartChild
from purvey.testing.engine_process import COMMAND

WAIT_S = 30.0


def load(num_threads: int = 1) -> LoadModel:
    """Return an order for the scripted engine."""
    source = ModelSource(name="echo", folder="/nonexistent", digest="0" * 64)
    return LoadModel(source=source, num_threads=num_threads, kv_cache_bytes=1, max_batch_tokens=1)


@asynccontextmanager
async def keeping(launcher: LocalEngineLauncher) -> AsyncIterator[Spare]:
    """Keep a spare process and wait until it is ready."""
    task = asyncio.create_task(launcher.keep_spare(1))
    try:
        await asyncio.sleep(0)
        kept = launcher._spares[1]
        await ready(kept)
        yield kept
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ready(kept: Spare, *, beside: int | None = None) -> int:
    """Wait for a process other than `beside` and return its id."""
    async with asyncio.timeout(WAIT_S):
        while kept.pid is None or kept.pid == beside:  # noqa: ASYNC110 (it has no event)
            await asyncio.sleep(0.01)
    return kept.pid


async def answers(engine: IpcEngine) -> bool:
    """Tell whether an engine answers; then end it."""
    request = Generate(
        request_id=new_id("req_"), prompt=TextPrompt(text="hi"), sampling=Sampling(max_tokens=4)
    )
    events = [event async for event in engine.generate(request)]
    await engine.close(timeout_s=5)
    return len(events) > 2


def is_alive(pid: int) -> bool:
    """Tell whether a process is there, or is still to be reaped."""
    return Path(f"/proc/{pid}").exists()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(start: StartChild) -> Spare:
        return Spare(start, pause_s=0.01, retry_s=0.01)

    monkeypatch.setattr(client, "Spare", quick)


@pytest.fixture
def launcher(tmp_path: Path) -> LocalEngineLauncher:
    return LocalEngineLauncher(cwd=tmp_path, command=COMMAND)


async def test_a_launch_takes_the_process_that_waits(launcher: LocalEngineLauncher) -> None:
    async with keeping(launcher) as kept:
        waiting = kept.pid
        engine = await launcher.launch(load())
        assert engine.pid == waiting
        following = await ready(kept, beside=waiting)
        assert await answers(engine)
    assert not is_alive(following)


async def test_without_one_that_is_ready_a_launch_starts_its_own(
    launcher: LocalEngineLauncher,
) -> None:
    async with keeping(launcher) as kept:
        waiting = kept.pid
        other = await launcher.launch(load(num_threads=2))
        assert other.pid != waiting
        both = await asyncio.gather(launcher.launch(load()), launcher.launch(load()))
        assert waiting in [engine.pid for engine in both]
        assert all([await answers(engine) for engine in (other, *both)])


async def test_one_that_dies_is_replaced(launcher: LocalEngineLauncher) -> None:
    async with keeping(launcher) as kept:
        dead = await ready(kept)
        os.kill(dead, signal.SIGKILL)
        assert await ready(kept, beside=dead) != dead
        assert await answers(await launcher.launch(load()))


async def test_one_that_says_something_else_is_ended_and_not_given(tmp_path: Path) -> None:
    talkative = ("sh", "-c", "sleep 60")  # unknown options end it: it says nothing
    launcher = LocalEngineLauncher(cwd=tmp_path, command=talkative)
    task = asyncio.create_task(launcher.keep_spare(1))
    await asyncio.sleep(0.2)
    assert launcher._spares[1].take() is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert launcher._spares == {}
