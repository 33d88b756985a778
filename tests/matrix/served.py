"""A server as its own process, to be killed, stopped, starved and started again."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import psutil

from tests.conftest import FIRST_KEY
from tests.matrix.contract import Witness

if TYPE_CHECKING:
    from openai import OpenAI

START_S = 60.0
SERVE = (sys.executable, "-m", "purvey", "serve")
SETTINGS = {
    "ENGINE_THREADS": "1",
    "JOB_THREADS": "1",
    "DRAIN_TIMEOUT_S": "5",
    "JOB_HEARTBEAT_S": "0.5",
    "JOB_LEASE_S": "5",
    "LOG_LEVEL": "info",
    "SPARE_ENGINE": "false",
}


@dataclass(kw_only=True)
class Served:
    """A running server process.

    Attributes:
        process: The process; signal it and its children by pid only.
        base_url: Address without a path.
        data_dir: Where it keeps everything.
        log: Its log, of all starts.
        witness: Makes clients whose answers are held to the error contract.
    """

    process: "subprocess.Popen[str]"
    base_url: str
    data_dir: Path
    log: Path
    witness: Witness

    def openai(self, **options: Any) -> "OpenAI":
        """Return the official client with the administrator's key."""
        from openai import OpenAI

        return OpenAI(base_url=f"{self.base_url}/v1", api_key=FIRST_KEY, **options)

    def workers(self, mode: str) -> list[psutil.Process]:
        """Return the processes of one mode (`engine`, `job`, `parse`), oldest first."""
        found = [
            child
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if mode in _arguments(child)
        ]
        return sorted(found, key=lambda child: child.create_time())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, wait for the end, return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@contextmanager
def serving(
    root: Path,
    *,
    settings: Mapping[str, str] | None = None,
    data_dir: Path | None = None,
    failpoints: str = "",
    command: Sequence[str] = SERVE,
) -> Iterator[Served]:
    """Run `purvey serve` until the block ends; start it again with the same `root` to recover.

    Args:
        root: Folder of the test; holds the data folder, `models`, `modules` and the log.
        settings: `PURVEY_*` without the prefix, over `SETTINGS`.
        data_dir: Another data folder than `root / "data"`.
        failpoints: Plan of `purvey.failpoints`.
        command: What to run instead.
    """
    for part in ("models", "modules"):
        (root / part).mkdir(parents=True, exist_ok=True)
    data = data_dir or root / "data"
    process = start(root, data, settings=settings or {}, failpoints=failpoints, command=command)
    try:
        address = _address(process, root / "server.log")
        yield Served(
            process=process,
            base_url=address,
            data_dir=data,
            log=root / "server.log",
            witness=Witness(address, FIRST_KEY),
        )
    finally:
        _end(process)


def start(
    root: Path,
    data_dir: Path,
    *,
    settings: Mapping[str, str],
    failpoints: str,
    command: Sequence[str] = SERVE,
) -> "subprocess.Popen[str]":
    """Start the process without waiting until it serves; its log is `root / "server.log"`."""
    values = {
        **SETTINGS,
        "BOOTSTRAP_KEY": FIRST_KEY,
        "DATA_DIR": str(data_dir),
        "PORT": "0",
        "MODEL_ROOTS": str(root / "models"),
        "MODULE_ROOTS": str(root / "modules"),
        "FAILPOINTS": failpoints,
        **settings,
    }
    environment = {f"PURVEY_{name}": value for name, value in values.items()}
    with (root / "server.log").open("a") as log:
        return subprocess.Popen(
            command,
            env={"PATH": os.defpath, "HOME": str(root), **environment},
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def wait_until_ready(base_url: str) -> None:
    """Wait until the server takes work."""
    pause = threading.Event()
    for _ in range(int(START_S / 0.05)):
        try:
            if httpx2.get(f"{base_url}/readyz", trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        pause.wait(0.05)
    raise AssertionError("the server does not get ready")


def _address(process: "subprocess.Popen[str]", log: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"http://\S+", line)
        if found:
            wait_until_ready(found.group())
            return found.group()
    raise AssertionError(f"ended with {process.wait()}: {log.read_text('utf-8')[-3_000:]}")


def _end(process: "subprocess.Popen[str]") -> None:
    """Kill the server and whatever it has left."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
    for child in children:
        if child.is_running():
            child.kill()
    psutil.wait_procs(children, timeout=10)


def _arguments(process: psutil.Process) -> list[str]:
    try:
        found: list[str] = process.cmdline()
    except psutil.Error:  # it has just ended
        return []
    return found
