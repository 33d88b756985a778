"""Bar 8: processor microseconds of the server for each streamed token, 64 streams at a time.

The engine is scripted and in a process of its own: every 20 ms it tells each request its next
token, all in one write, as a batch does. The server's own time (user and system, from /proc) is
divided by the tokens that arrived as events; keys, validation, metering and the ends of the
streams are in it. To be correct, every stream must hold every token and end in `[DONE]`.
"""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from benchmarks.harness import Report, publish, spread
from benchmarks.scripted_server import MODEL
from benchmarks.stepping_engine import WORDS

STREAMS, TOKENS, ROUNDS, TARGET_US = 64, 256, 5, 25.0
_TEXT = "".join(WORDS[number % len(WORDS)] for number in range(TOKENS))


def main() -> int:
    """Measure and publish."""
    key = secrets.token_hex(24)
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder), key) as (address, pid):
        request = _request(address, key)
        is_whole = asyncio.run(_round(address, request))  # warm-up
        found = []
        for _ in range(ROUNDS):
            before = _cpu_s(pid)
            is_whole = asyncio.run(_round(address, request)) and is_whole
            found.append((_cpu_s(pid) - before) / (STREAMS * TOKENS) * 1e6)
    publish(
        Report(
            bar="streaming_tokens",
            workload=__doc__.split("\n\n")[1].replace("\n", " "),
            target=f"<= {TARGET_US:g} us of the server's processor time per token",
            verdict=("met" if median(found) <= TARGET_US else "missed") if is_whole else "TORN",
            figures={
                "server_cpu_us_per_token": spread(found),
                "streams": STREAMS,
                "tokens_per_stream": TOKENS,
            },
        )
    )
    return 0 if is_whole else 1


async def _round(address: str, request: bytes) -> bool:
    """Run all streams at once; tell whether each was whole."""
    return all(await asyncio.gather(*(_stream(address, request) for _ in range(STREAMS))))


async def _stream(address: str, request: bytes) -> bool:
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request)
    received = bytearray()
    while chunk := await reader.read(2**16):
        received += chunk
        if received.endswith(b"0\r\n\r\n"):
            break
    writer.close()
    events = [line[6:] for line in bytes(received).split(b"\n") if line.startswith(b"data: ")]
    chunks = [json.loads(event) for event in events[:-1]]
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    told = [text for text in texts if text]
    return events[-1].strip() == b"[DONE]" and len(told) == TOKENS and "".join(told) == _TEXT


def _request(address: str, key: str) -> bytes:
    body = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "hi"}],
            "max_completion_tokens": TOKENS,
            "stream": True,
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {urlsplit(address).netloc}\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@contextmanager
def _server(folder: Path, key: str) -> Iterator[tuple[str, int]]:
    module = [sys.executable, "-m", "benchmarks.scripted_server"]
    server = subprocess.Popen(
        [*module, str(folder / "data"), key, "stepping"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip(), server.pid
    finally:
        server.stdin.close()
        server.wait(timeout=60)


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process itself; that of its children is not in it."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
