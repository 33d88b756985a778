"""Real child processes: frames, output, ends, environment."""

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest
import uvloop

from purvey.contracts.jobs import FromWorker, JobEvent, StopJob
from purvey.errors import InternalError, WorkerCrashedError
from purvey.ipc import child as child_module
from purvey.ipc.child import Child, spawn, thread_limits, worker_command
from purvey.ipc.child_output import BURST_BYTES

BEGIN = """
import argparse, json, os, signal, subprocess, sys, threading
from purvey.contracts.jobs import JobEvent, ToWorker
from purvey.ipc.link import Link
parser = argparse.ArgumentParser()
parser.add_argument("--fd", type=int)
parser.add_argument("--parent", type=int)
arguments = parser.parse_args()
link = Link(arguments.fd, ToWorker)
"""
ECHO = BEGIN + "\nwhile (m := link.receive()) is not None: link.send(JobEvent(message=m.reason))\n"


async def start(program: str, folder: Path, **env: str) -> Child[FromWorker]:
    command = (sys.executable, "-P", "-c", program)
    return await spawn("job", incoming=FromWorker, env=env, cwd=folder, command=command)


async def only_event(child: Child[FromWorker]) -> JobEvent:
    [event] = [message async for message in child.messages()]
    assert isinstance(event, JobEvent)
    return event


async def test_messages_travel_both_ways_and_hanging_up_ends_the_child(tmp_path: Path) -> None:
    child = await start(ECHO, tmp_path)
    messages = child.messages()
    for reason in ("pause", "cancel"):
        await child.send(StopJob(reason=reason))
        assert await anext(messages) == JobEvent(message=reason)
    child.hang_up()
    assert await child.wait() == 0


async def test_a_killed_child_ends_its_messages_and_shows_the_signal(tmp_path: Path) -> None:
    child = await start(ECHO, tmp_path)
    child.kill()
    assert [message async for message in child.messages()] == []
    assert await child.wait() == -signal.SIGKILL
    child.kill()  # harmless now, and hits no other process
    with pytest.raises(WorkerCrashedError):
        await child.send(StopJob(reason="pause"))


def test_a_child_that_was_hung_up_on_is_gone_for_who_still_sends(tmp_path: Path) -> None:
    """On the server's loop too, whose closed transports refuse a write with a `RuntimeError`."""

    async def send_late() -> None:
        child = await start(ECHO, tmp_path)
        child.kill()
        await child.wait()
        child.hang_up()
        await child._writer.wait_closed()
        with pytest.raises(WorkerCrashedError):
            await child.send(StopJob(reason="hand_back"))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(send_late())


async def test_terminate_asks(tmp_path: Path) -> None:
    ready = "link.send(JobEvent(message='ready'))\nlink.receive()\n"
    child = await start(BEGIN + ready, tmp_path)
    await anext(child.messages())
    child.terminate()
    assert await child.wait() == -signal.SIGTERM
    child.hang_up()


async def test_frames_sent_just_before_a_crash_are_read(tmp_path: Path) -> None:
    dying = "link.send(JobEvent(message='last'))\nos.kill(os.getpid(), signal.SIGKILL)\n"
    child = await start(BEGIN + dying, tmp_path)
    assert await child.wait() == -signal.SIGKILL
    assert (await only_event(child)).message == "last"


@pytest.mark.row("NET-09")
async def test_garbage_on_the_link_is_an_error(tmp_path: Path) -> None:
    child = await start(
        BEGIN + "\nos.write(arguments.fd, b'\\xff' * 64)\nlink.receive()\n", tmp_path
    )
    with pytest.raises(InternalError, match="announces"):
        await anext(child.messages())
    child.kill()
    assert await child.wait() == -signal.SIGKILL
    child.hang_up()


async def test_the_child_inherits_no_environment_no_descriptor_and_no_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PURVEY_BOOTSTRAP_KEY", "sk-secret")
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the working directory')")
    tell = """
fds = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2
       and os.path.exists(f"/proc/self/fd/{fd}")]
open_fds = [name for name in fds if not name.startswith("/proc")]
link.send(JobEvent(message="", data={"env": dict(os.environ), "cwd": os.getcwd(), "fds": open_fds}))
"""
    with socket.socket() as listening:
        listening.set_inheritable(True)
        child = await start(BEGIN + tell, tmp_path, **thread_limits(3))
        data = (await only_event(child)).data
    assert await child.wait() == 0
    env = data["env"]
    assert set(env) <= {
        "PATH", "HOME", "LANG", "LC_CTYPE", "PYTHONUNBUFFERED",
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY",
        "GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE",
    }  # fmt: skip
    assert (env["OMP_NUM_THREADS"], env["HOME"]) == ("3", str(tmp_path))
    assert data["cwd"] == str(tmp_path)
    assert [name.split(":")[0] for name in data["fds"]] == ["socket"]


async def test_a_childs_events_below_the_servers_level_are_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    prints = """
print(json.dumps({"level": "info", "event": "engine.ready"}))
print(json.dumps({"level": "error", "event": "engine.broke"}))
"""
    with caplog.at_level(logging.ERROR, "purvey"):
        child = await start(BEGIN + prints, tmp_path)
        await child.wait()
        child.hang_up()
    assert json.loads(capfd.readouterr().err)["event"] == "engine.broke"


async def test_what_a_child_prints_is_logged_and_its_log_lines_pass(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    prints = """
print("from a library\\x1b[31m", flush=True)
print(json.dumps({"event": "job.broke"}), file=sys.stderr)
print('{"event": "cut off')
print("x" * 1_000_000)
"""
    with caplog.at_level(logging.WARNING, "purvey.ipc.child_output"):
        child = await start(BEGIN + prints, tmp_path)
        await child.wait()
        child.hang_up()
    texts = [getattr(record, "text", "") for record in caplog.records]
    assert texts[0].startswith("from a library")
    assert 0 < max(map(len, texts)) <= 2_000
    assert json.loads(capfd.readouterr().err) == {"event": "job.broke"}


async def test_a_child_that_prints_without_end_does_not_fill_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prints = 'for _ in range(4): sys.stdout.write(("x" * 999 + "\\n") * 1_000)\n'
    with caplog.at_level(logging.WARNING, "purvey.ipc.child_output"):
        child = await start(BEGIN + prints, tmp_path)
        await child.wait()
        child.hang_up()
    printed = [r for r in caplog.records if r.msg == "worker.printed"]
    dropped = [vars(r)["count"] for r in caplog.records if r.msg == "worker.output_dropped"]
    assert sum(len(vars(record)["text"]) + 1 for record in printed) <= 2 * BURST_BYTES
    assert len(printed) + sum(dropped) == 4_000


async def test_the_rest_of_its_process_group_ends_with_the_child(tmp_path: Path) -> None:
    spawns = """
inner = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
link.send(JobEvent(message=str(inner.pid)))
link.receive()
"""
    child = await start(BEGIN + spawns, tmp_path)
    first = await anext(child.messages())
    assert isinstance(first, JobEvent)
    grandchild = psutil.Process(int(first.message))
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()  # also waits for the pipe that the grandchild holds
    child.hang_up()
    await asyncio.to_thread(psutil.wait_procs, [grandchild], timeout=30)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


async def test_a_process_that_left_the_group_does_not_keep_its_end_from_being_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "OUTPUT_GRACE_S", 0.1)
    spawns = """
inner = subprocess.Popen(
    [sys.executable, "-c", "import threading; threading.Event().wait()"], start_new_session=True
)
link.send(JobEvent(message=str(inner.pid)))
"""
    child = await start(BEGIN + spawns, tmp_path)
    first = await anext(child.messages())
    assert isinstance(first, JobEvent)
    grandchild = psutil.Process(int(first.message))
    try:
        async with asyncio.timeout(10):
            assert await child.wait() == 0
    finally:
        grandchild.kill()
    child.hang_up()


async def test_a_child_outlives_no_log_that_nobody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(text: str) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(sys.stderr, "write", refuse)
    prints = """
for _ in range(10_000):
    print(json.dumps({"event": "job.told"}))
link.send(JobEvent(message="done"))
"""
    child = await start(BEGIN + prints, tmp_path)
    assert (await only_event(child)).message == "done"
    assert await child.wait() == 0


async def test_a_child_that_cannot_be_watched_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    before = psutil.Process().children()  # other tests' servers may have engines
    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(WorkerCrashedError, match="could be watched"):
        await start(ECHO, tmp_path)
    assert psutil.Process().children() == before


async def test_a_program_that_is_not_there_is_an_error_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(WorkerCrashedError, match="no job process could start") as caught:
        await spawn("job", incoming=FromWorker, env={}, cwd=tmp_path, command=["/no/such/program"])
    assert "program" not in caught.value.text


async def test_an_engine_process_that_gets_no_model_exits(tmp_path: Path) -> None:
    assert worker_command("job")[1:] == ("-P", "-m", "purvey.worker", "job")
    child: Child[FromWorker] = await spawn("job", incoming=FromWorker, env={}, cwd=tmp_path)
    child.hang_up()
    assert await child.wait() == 2  # no spec came
