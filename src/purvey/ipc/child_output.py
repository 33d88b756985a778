"""What a worker prints: its own log lines pass as they are, anything else becomes an event."""

import asyncio
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
    if text.startswith('{"'):  # a log line of the worker, already in its final form
        sys.stderr.write(text + "\n")
    elif text:
        logger.warning("worker.printed", extra={"pid": pid, "text": text[:_LINE_CHARS]})
