"""What no honest end sends: the other end refuses it, and everybody else goes on."""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from purvey.contracts.engine import Generate, LoadModel, TextPrompt
from purvey.contracts.jobs import FromWorker, JobEvent, JobSpec, StopJob
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import Sampling
from purvey.contracts.wire import pack
from purvey.engine.client import LocalEngineLauncher
from purvey.errors import InternalError, PurveyError
from purvey.ipc.child import Child, spawn, worker_command
from purvey.testing.engine_process import COMMAND
from purvey.testing.scripted_jobs import Conversation, ScriptedJobLauncher, deliver_model
from purvey.testing.workshop import Workshop
from purvey.worker.job_link import LINK_FAILED_STATUS

PATIENCE_S = 30
ACTING = str(Path(__file__).parents[2] / "contract" / "jobs" / "acting_worker.py")
UNPICKLED = 77
"""Exit status of a process that has begun to build what a pickle names."""
GUARDED = f"""
import os, runpy, sys

def watch(event, arguments):
    if event == "pickle.find_class":
        os._exit({UNPICKLED})

sys.addaudithook(watch)
module = sys.argv.pop(1)
run = runpy.run_path if module.endswith(".py") else runpy.run_module
run(module, run_name="__main__")
"""
"""Runs a worker as its command does, and ends it when anything is unpickled."""
RAW = """
import os, sys, threading
fd, given = int(sys.argv[sys.argv.index("--fd") + 1]), bytes.fromhex(sys.argv[1])
os.write(fd, given)
if sys.argv[2] == "end":
    sys.exit(0)
threading.Event().wait()
"""
"""A worker that says these bytes and then waits or ends."""


def pickle_of(canary: Path) -> bytes:
    """Return a pickle that touches the canary where it is loaded."""
    return b"cposix\nsystem\n(S'touch " + os.fsencode(canary) + b"'\ntR."


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def job_spec(folder: Path, *acts: str) -> JobSpec:
    return JobSpec(
        job_id="job_1",
        kind="training",
        attempt=1,
        fence=1,
        recipe={"acts": list(acts)},
        work_dir=str(folder),
        output_dir=str(folder),
    )


def load_model() -> LoadModel:
    source = ModelSource(name="echo", folder="/nonexistent", digest="0" * 64)
    return LoadModel(source=source, num_threads=1, kv_cache_bytes=1, max_batch_tokens=1)


def question(text: str) -> Generate:
    return Generate(request_id=text, prompt=TextPrompt(text=text), sampling=Sampling(max_tokens=4))


BYTES: dict[str, Callable[[Path], bytes]] = {
    "garbage": lambda _: bytes(range(255, 55, -1)),
    "no msgpack": lambda _: framed(b"\xc1" * 40),
    "a pickle": pickle_of,
    "a framed pickle": lambda canary: framed(pickle_of(canary)),
    "a pickle of protocol 4": lambda _: framed(b"\x80\x04\x95\x10" + b"\x00" * 40),
    "four gigabytes": lambda _: struct.pack(">I", 2**32 - 1) + b"a" * 40,
    "an empty frame": lambda _: framed(b""),
    "an unknown tag": lambda _: framed(msgspec.msgpack.encode({"type": "exec", "code": "1"})),
    "no tag": lambda _: framed(msgspec.msgpack.encode({"reason": "cancel"})),
    "an extension": lambda _: framed(b"\xc7\x04\x01abcd"),
    "nesting": lambda _: framed(b"\x91" * 200_000),
}
HALF = {
    "half a length": lambda _: b"\x00\x00",
    "half a frame": lambda _: pack(StopJob(reason="cancel"))[:-3],
}


class Worker:
    """A worker process whose other end is the test."""

    def __init__(self, target: str, folder: Path) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(PATIENCE_S)
        mode = ["job"] if target == worker_command("job")[-2] else []
        ends = ["--fd", str(theirs.fileno()), "--parent", str(os.getpid())]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", GUARDED, target, *mode, *ends],
                pass_fds=(theirs.fileno(),),
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )

    def end(self) -> int:
        """Hang up, wait for the end, return the exit status."""
        with contextlib.suppress(OSError):
            self.ours.shutdown(socket.SHUT_WR)
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode

    def close(self) -> None:
        """Leave nothing behind."""
        self.ours.close()
        self.process.kill()
        self.process.communicate()


JOB, ACT, ENGINE = "purvey.worker", ACTING, COMMAND[-1]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    """A function that starts a worker."""
    with contextlib.ExitStack() as running:

        def begin(target: str) -> Worker:
            worker = Worker(target, tmp_path)
            running.callback(worker.close)
            return worker

        yield begin


@pytest.mark.row("NET-09")
@pytest.mark.parametrize("sent", BYTES.values(), ids=BYTES)
@pytest.mark.parametrize("target", [JOB, ENGINE], ids=["job", "engine"])
def test_a_worker_ends_at_first_bytes_that_do_not_fit(
    start: Callable[[str], Worker],
    tmp_path: Path,
    target: str,
    sent: Callable[[Path], bytes],
) -> None:
    worker, canary = start(target), tmp_path / "canary"
    worker.ours.sendall(sent(canary))
    worker.process.wait(PATIENCE_S)  # before we hang up
    assert worker.end() not in {0, UNPICKLED}
    assert not canary.exists()


@pytest.mark.row("NET-09")
@pytest.mark.parametrize("sent", BYTES.values(), ids=BYTES)
def test_a_running_job_ends_at_bytes_that_do_not_fit(
    start: Callable[[str], Worker], tmp_path: Path, sent: Callable[[Path], bytes]
) -> None:
    """It says no last word, so that its supervisor takes it for lost and not for stopped."""
    worker, canary = start(ACT), tmp_path / "canary"
    worker.ours.sendall(pack(job_spec(tmp_path, "work_until_stopped")))
    heard = worker.ours.recv(2**16)
    while b"Working." not in heard:
        heard += worker.ours.recv(2**16)
    worker.ours.sendall(sent(canary))
    worker.process.wait(PATIENCE_S)
    while chunk := worker.ours.recv(2**16):
        heard += chunk
    assert b"stopped" not in heard
    assert worker.end() == LINK_FAILED_STATUS
    assert not canary.exists()


@pytest.mark.row("NET-09")
@pytest.mark.parametrize("sent", HALF.values(), ids=HALF)
@pytest.mark.parametrize("target", [JOB, ENGINE], ids=["job", "engine"])
def test_a_worker_waits_for_the_rest_of_a_frame_and_ends_with_its_parent(
    start: Callable[[str], Worker],
    tmp_path: Path,
    target: str,
    sent: Callable[[Path], bytes],
) -> None:
    worker = start(target)
    worker.ours.sendall(sent(tmp_path))
    with pytest.raises(subprocess.TimeoutExpired):
        worker.process.wait(0.5)
    assert worker.end() != UNPICKLED


@pytest.mark.row("NET-09")
def test_a_job_that_is_told_twice_runs_once(start: Callable[[str], Worker], tmp_path: Path) -> None:
    worker, spec = start(ACT), pack(job_spec(tmp_path, "succeed"))
    worker.ours.sendall(spec + spec)
    heard = b""
    while chunk := worker.ours.recv(2**16):
        heard += chunk
    assert heard.count(b"Step 1/3") == 1
    assert worker.end() == 0


@pytest.mark.row("NET-09")
def test_an_engine_that_is_told_twice_what_to_load_ends(start: Callable[[str], Worker]) -> None:
    worker = start(ENGINE)
    worker.ours.sendall(pack(load_model()) * 2)
    worker.process.wait(PATIENCE_S)
    assert worker.end() not in {0, UNPICKLED}


def raw(sent: bytes, then: str) -> tuple[str, ...]:
    """Return the command of a worker that says these bytes."""
    return (sys.executable, "-P", "-c", RAW, sent.hex(), then)


@pytest.mark.row("NET-09")
@pytest.mark.parametrize("sent", [b for n, b in BYTES.items() if n != "nesting"])
async def test_the_server_refuses_bytes_of_a_worker_that_do_not_fit(
    tmp_path: Path, sent: Callable[[Path], bytes]
) -> None:
    """It refuses while the worker still lives, and without waiting for the length it announces."""
    canary = tmp_path / "canary"
    with pytest.raises(InternalError):
        await LocalEngineLauncher(cwd=tmp_path, command=raw(sent(canary), "wait")).launch(
            load_model()
        )
    child: Child[FromWorker] = await spawn(
        "job",
        incoming=FromWorker,
        env={},
        cwd=tmp_path,
        command=raw(pack(JobEvent(message="first")) + sent(canary), "wait"),
    )
    messages = child.messages()
    assert await anext(messages) == JobEvent(message="first")
    with pytest.raises(InternalError):
        await anext(messages)
    child.kill()
    assert await child.wait() < 0
    child.hang_up()
    assert not canary.exists()


@pytest.mark.row("NET-09")
@pytest.mark.parametrize("sent", HALF.values(), ids=HALF)
async def test_half_a_frame_of_a_worker_that_ends_is_no_message(
    tmp_path: Path, sent: Callable[[Path], bytes]
) -> None:
    command = raw(sent(tmp_path), "end")
    child: Child[FromWorker] = await spawn(
        "job", incoming=FromWorker, env={}, cwd=tmp_path, command=command
    )
    assert [message async for message in child.messages()] == []
    assert await child.wait() == 0


@pytest.mark.row("NET-09")
@pytest.mark.parametrize("fault", ["!garbage", "!stranger", "!replay", "!load"])
async def test_an_engine_that_lies_is_ended_and_its_neighbour_answers_on(
    tmp_path: Path, fault: str
) -> None:
    launcher = LocalEngineLauncher(cwd=tmp_path, command=COMMAND)
    liar, neighbour = await launcher.launch(load_model()), await launcher.launch(load_model())
    async with asyncio.timeout(PATIENCE_S):
        with contextlib.suppress(PurveyError):  # a replay answers first
            _ = [event async for event in liar.generate(question(fault))]
        while liar.is_alive:  # noqa: ASYNC110 (it has no event for it)
            await asyncio.sleep(0.01)
        with pytest.raises(PurveyError):
            _ = [event async for event in liar.generate(question("again"))]
        assert len([event async for event in neighbour.generate(question("abcd"))]) == 6
    for engine in (liar, neighbour):
        await engine.close(timeout_s=5)


@pytest.mark.row("NET-09")
async def test_a_last_word_that_is_said_twice_counts_once(tmp_path: Path) -> None:
    async def twice(worker: Conversation) -> int:
        deliver_model(worker)
        deliver_model(worker)
        return 0

    async with Workshop(tmp_path, ScriptedJobLauncher(twice)) as workshop:
        for _ in range(2):
            job = await workshop.submit()
            assert (await workshop.until(job.id, "succeeded", "failed")).status == "succeeded"
            await workshop.check(job.id)
        assert len(workshop.effects.published) == len(workshop.effects.ended) == 2


@pytest.mark.row("NET-09")
async def test_nobody_else_can_reach_the_link(tmp_path: Path) -> None:
    """The pair has no name: there is no path or port that another user could connect to."""
    child: Child[FromWorker] = await spawn(
        "job", incoming=FromWorker, env={}, cwd=tmp_path, command=raw(b"", "wait")
    )
    end = child._writer.get_extra_info("socket")
    assert (end.getsockname(), end.getpeername()) == ("", "")
    credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    assert struct.unpack("3i", credentials)[1] == os.getuid()
    child.kill()
    await child.wait()
    child.hang_up()
