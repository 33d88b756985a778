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


async def forward_output(process: "subprocess.Popen[bytes]") -> None:
    """Pass on every line of the child's merged output until it ends.

    Lines are cut at `_LINE_CHARS`, so a child cannot flood the log with one line.
    """
    assert process.stdout is not None, "the child was started without a pipe"  # noqa: S101
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), process.stdout
    )
    rest = b""
    try:
        while chunk := await reader.read(_CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                _forward_line(line, process.pid)
            rest = rest[:_CHUNK_BYTES]
        _forward_line(rest, process.pid)
    finally:
        transport.close()


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
