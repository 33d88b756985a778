"""What a worker prints: its own log lines pass as they are, anything else becomes an event."""

import asyncio
import contextlib
import json
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 2**16
_LINE_CHARS = 2_000
BURST_BYTES = 2**20
"""What a child may print at once; beyond it, `BYTES_PER_S` on the average."""
BYTES_PER_S = 2**14


class _Allowance:
    """How much more of a child's output goes into the log: a bucket that fills with time."""

    def __init__(self, now: float) -> None:
        self._left, self._at = float(BURST_BYTES), now
        self._num_dropped = 0

    def takes(self, num_bytes: int, now: float) -> bool:
        """Take a line's bytes out; False when there are too few, and the line is dropped."""
        self._left = min(BURST_BYTES, self._left + (now - self._at) * BYTES_PER_S)
        self._at = now
        if num_bytes > self._left:
            self._num_dropped += 1
            return False
        self._left -= num_bytes
        return True

    def dropped(self) -> int:
        """Return how many lines were dropped since the last call."""
        count, self._num_dropped = self._num_dropped, 0
        return count


async def forward_output(process: "subprocess.Popen[bytes]") -> None:
    """Pass on every line of the child's merged output until it ends.

    Lines are cut at `_LINE_CHARS`, and dropped where the child prints more than its allowance:
    it floods the log neither with one line nor with many.
    """
    assert process.stdout is not None, "the child was started without a pipe"  # noqa: S101
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), process.stdout
    )
    clock = asyncio.get_running_loop().time
    allowance, rest = _Allowance(clock()), b""
    try:
        while chunk := await reader.read(_CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if allowance.takes(len(line) + 1, clock()):
                    _tell_dropped(allowance, process.pid)
                    _forward_line(line, process.pid)
            rest = rest[:_CHUNK_BYTES]
        if allowance.takes(len(rest), clock()):
            _forward_line(rest, process.pid)
    finally:
        _tell_dropped(allowance, process.pid)
        transport.close()


def _tell_dropped(allowance: _Allowance, pid: int) -> None:
    if num_lines := allowance.dropped():
        logger.warning("worker.output_dropped", extra={"pid": pid, "count": num_lines})


def _forward_line(line: bytes, pid: int) -> None:
    text = line.decode(errors="replace").strip()
    event = _log_event(text)
    if event is not None and not _is_wanted(event):
        return
    if event is not None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads our log any more
            sys.stderr.write(json.dumps(event) + "\n")  # ASCII again, whatever the child wrote
    elif text:
        logger.warning("worker.printed", extra={"pid": pid, "text": text[:_LINE_CHARS]})


def _is_wanted(event: dict[str, object]) -> bool:
    """Tell whether the server itself would log at the level of a child's event."""
    levels = logging.getLevelNamesMapping()
    level = levels.get(str(event.get("level", "")).upper(), logging.CRITICAL)
    return logging.getLogger("purvey").isEnabledFor(level)


def _log_event(text: str) -> dict[str, object] | None:
    """Return the event, if the line is one that `telemetry.logs` has formatted."""
    if not text.startswith("{"):
        return None
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return event if "event" in event else None
