"""The server of a soak: a process of its own, with scripted engines and workers and a probe.

Run as `python soaked_server.py FOLDER [--leak OBJECTS] [--trace]`; prints its address. Engines are
processes that follow a script, reached over the real link. The probe is the Unix socket `probe` in
the folder: a line in, one JSON object out. `--leak` keeps that many objects of every request, to
prove that a soak sees it; `--trace` adds where memory was allocated since the first probe.
"""

import argparse
import asyncio
import ctypes
import gc
import json
import logging
import sys
import threading
import tracemalloc
from collections import Counter
from pathlib import Path

from pydantic import SecretStr

from purvey.app.application import Application, build
from purvey.engine.client import IpcEngine, LocalEngineLauncher
from purvey.settings import Settings
from purvey.telemetry import logs
from purvey.testing.engine_process import COMMAND
from purvey.testing.scripted_jobs import (
    Conversation,
    ScriptedJobLauncher,
    succeed,
    until_stopped,
)

KEY = "sk-test-administrator-0123456789abcdef0123456789"
WAITING_NAME = "waits"
"""Jobs whose recipe has this name run until they are stopped; all others succeed."""

_trim = getattr(ctypes.CDLL(None), "malloc_trim", int)  # glibc has it
POOLS = ("uvloop_", "asyncio_", "store-reader_", "AnyIO worker thread")
"""Beginnings of the names of threads that come as they are needed, up to a number."""


class Leak(logging.Handler):
    """The planted fault: something that grows with every request that is logged."""

    def __init__(self, num_objects: int) -> None:
        super().__init__()
        self._num_objects, self._kept = num_objects, list[object]()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "request.finished":
            self._kept += [object() for _ in range(self._num_objects)]


class Workers(ScriptedJobLauncher):
    """Scripted workers that remember nothing of the jobs before."""

    def __init__(self) -> None:
        super().__init__(self._act)

    async def _act(self, worker: Conversation) -> int:
        self.launched.clear()
        is_waiting = worker.spec.recipe.get("name") == WAITING_NAME
        return await (until_stopped if is_waiting else succeed)(worker)


class Probe:
    """Tells what only the process itself can see."""

    def __init__(self, application: Application, *, is_tracing: bool) -> None:
        self._application = application
        self._first: tracemalloc.Snapshot | None = None
        self._is_tracing = is_tracing

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question."""
        await reader.readline()
        gc.collect()  # what nothing holds is no leak,
        _trim(0)  # nor is what the allocator keeps for later
        mine = asyncio.current_task()
        names = Counter(_name(task) for task in asyncio.all_tasks() if task is not mine)
        pooled = sum(thread.name.startswith(POOLS) for thread in threading.enumerate())
        told = {
            "tasks": names,
            "tables": tables_of(self._application),
            "blocks": sys.getallocatedblocks(),
            "pooled": pooled,
            "grown": self._grown(),
        }
        writer.write(json.dumps(told).encode() + b"\n")
        await writer.drain()
        writer.close()

    def _grown(self) -> list[str]:
        if not self._is_tracing:
            return []
        now = tracemalloc.take_snapshot()
        if self._first is None:
            self._first = now
        return [str(line) for line in now.compare_to(self._first, "lineno")[:40]]


def tables_of(application: Application) -> dict[str, int]:
    """Count what the server keeps of requests, clients and jobs that are under way."""
    services, supervisor = application.services, application._supervisor
    state = application._http._server.config.app._app.state  # type: ignore[union-attr]  # our own
    engines = [place.engine for place in services.engines._places.values()]
    return {
        "connections": application._http.num_connections,
        "keys": len(services.keys._known),
        "idempotency keys": len(state.in_flight._held),
        "explanations": state.explainer._num_held,
        "listeners": sum(map(len, services.jobs._bell._listeners.values())),
        "runs": supervisor.num_running,
        "resting jobs": len(supervisor._resting),
        "engines": len(engines),
        "inboxes": sum(len(e._inboxes) for e in engines if isinstance(e, IpcEngine)),
        "held artifacts": len(services.artifacts._held),
    }


def _name(task: "asyncio.Task[object]") -> str:
    name = task.get_name()
    code = getattr(task.get_coro(), "__qualname__", "?")
    return code if name.startswith("Task-") else name.rstrip("0123456789")


def make(root: Path) -> Application:
    """Build the server of a folder that has `models` in it."""
    settings = Settings(
        data_dir=root / "data",
        port=0,
        bootstrap_key=SecretStr(KEY),
        model_roots=(root / "models",),
        engine_threads=1,
        job_threads=1,
        max_running_jobs=4,
        max_loaded_models=6,
        drain_timeout_s=10.0,
    )
    engines = LocalEngineLauncher(cwd=root / "data" / "engines", command=COMMAND)
    return build(settings, engine_launcher=engines, job_launcher=Workers())


async def serve(root: Path, *, is_tracing: bool) -> None:
    """Serve until standard input ends."""
    application = make(root)
    running = asyncio.create_task(application.run(), name="application")
    probe = await asyncio.start_unix_server(
        Probe(application, is_tracing=is_tracing).answer, root / "probe"
    )
    while not application.is_ready and not running.done():  # noqa: ASYNC110 (a threading event)
        await asyncio.sleep(0.005)
    sys.stdout.write(f"{application.base_url}\n")
    sys.stdout.flush()
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read), name="stdin")
    await asyncio.wait({running, ended}, return_when=asyncio.FIRST_COMPLETED)
    application.ask_to_stop()
    await running
    probe.close()


def main() -> None:
    """Run the server as the arguments say."""
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--leak", type=int, default=0)
    parser.add_argument("--trace", action="store_true")
    arguments = parser.parse_args()
    logs.configure("json", "info")
    if arguments.leak:
        logging.getLogger("purvey").addHandler(Leak(arguments.leak))
    if arguments.trace:
        tracemalloc.start(10)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(arguments.root, is_tracing=arguments.trace))


if __name__ == "__main__":
    main()
