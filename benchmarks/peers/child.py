"""A peer as a child process that speaks JSON lines, and what processes cost."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.peers.cache import cache

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class JsonChild:
    """A child that answers one line with one line. Use as a context manager.

    Args:
        name: Names its log, in the cache folder.
        command: What to run.
        env: Its whole environment.
    """

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._log = log_path(name)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                list(command),
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and return its answer.

        Raises:
            RuntimeError: The child has ended; names its log.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a peer has ended; its words are in {self._log}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end(self._process)


def log_path(name: str) -> Path:
    """Return where a peer's words go, in the cache folder."""
    folder = cache() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"


def end(process: "subprocess.Popen[Any]", *, grace_s: float = 10.0) -> None:
    """End a process: by the end of its input, then a signal, then for good."""
    if process.stdin is not None:
        process.stdin.close()
    else:
        process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def cpu_seconds(pid: int) -> float:
    """Processor seconds of a process and of its living descendants, user and system."""
    total = 0.0
    for one in [pid, *descendants(pid)]:
        try:
            fields = _stat(one)
        except OSError:
            continue  # it ended just now
        total += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return total


def descendants(pid: int) -> list[int]:
    """Living descendants of a process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(_stat(int(entry.name))[1])
        except OSError:
            continue  # it ended just now
        children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return found


def _stat(pid: int) -> list[str]:
    """Fields of `/proc/PID/stat` from the state on: a name may hold blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
