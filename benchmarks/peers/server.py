"""A peer that serves HTTP: started, awaited, measured, ended."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from benchmarks.peers.child import cpu_seconds, descendants, end, log_path


class HttpPeer:
    """A server process that is ready when its health route answers 200. A context manager.

    Args:
        name: Names its log, in the cache folder.
        command: What to run.
        env: Its whole environment.
        base_url: Where it listens.
        health: Path that answers 200 once requests are answered.
        model: What requests call its model.
        key: What requests show, where it asks for a key.
        ready_s: Longest time to wait for it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        base_url: str,
        health: str,
        model: str = "model",
        key: str = "",
        ready_s: float = 180.0,
    ) -> None:
        self.base_url, self.model, self.key = base_url, model, key
        log = log_path(name)
        with log.open("wb") as words:
            self._process = subprocess.Popen(
                list(command), env=env, stdout=words, stderr=words, stdin=subprocess.DEVNULL
            )
        limit = time.monotonic() + ready_s
        while not _is_up(base_url, health):
            if self._process.poll() is not None or time.monotonic() > limit:
                self.close()
                raise RuntimeError(f"{name} did not start; its words are in {log}")
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Processor seconds of the server and its descendants so far."""
        return cpu_seconds(self._process.pid)

    def close(self) -> None:
        """End the server, and what it started and left behind."""
        started = descendants(self._process.pid)
        end(self._process)
        for pid in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def free_port() -> int:
    """Return a port that nobody listened on just now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _is_up(base_url: str, path: str) -> bool:
    where = urllib.parse.urlsplit(base_url)
    assert where.hostname is not None
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
