"""What ten thousand requests are told when an engine has all it may hold.

The scripted engine never answers, so its queue of 1,024 requests fills and stays full. Requests up
to 10,000 follow, each on a connection of its own that stays open: first at an even rate, then the
last 500 all at once. Every one that the queue does not take must be answered 503 with
`Retry-After`, those beyond `http.max_connections` too; the time is from sending to the status line.
"""

import asyncio
import contextlib
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from benchmarks.harness import Report, publish
from benchmarks.quick import is_quick
from benchmarks.scripted_server import MODEL
from purvey.contracts.limits import LIMITS

REQUESTS, RATE, BURST = 10_000, 250.0, 500
LARGEST_MS = 50.0
"""What a refusal may take."""


@dataclass
class Told:
    """What came back, and how long each took, in milliseconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[bytes] = field(default_factory=list)
    waited_ms: list[float] = field(default_factory=list)


class Crowd:
    """Connections that each ask once and stay."""

    def __init__(self, address: str, key: str) -> None:
        self._url = urlsplit(address)
        self._request = _request(address, key)
        self._writers: list[asyncio.StreamWriter] = []

    async def hold(self, number: int) -> None:
        """Ask so often without waiting for answers: there will be none."""
        for _ in range(number):
            _, writer = await self._connect()
            writer.write(self._request)

    async def ask(self, told: Told) -> None:
        """Ask once, and note the answer."""
        reader, writer = await self._connect()
        began = time.perf_counter()
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        told.waited_ms.append((time.perf_counter() - began) * 1e3)
        told.statuses[int(head.split()[1])] += 1
        if not head.startswith(b"HTTP/1.1 503") or b"\r\nretry-after: " not in head.lower():
            told.wrong.append(head)

    async def ask_evenly(self, number: int, told: Told) -> None:
        """Ask at `RATE`, whether the answers come or not."""
        start = time.perf_counter()
        async with asyncio.TaskGroup() as asking:
            for turn in range(number):
                await asyncio.sleep(max(0.0, start + turn / RATE - time.perf_counter()))
                asking.create_task(self.ask(told))

    async def ask_at_once(self, number: int, told: Told) -> None:
        """Ask all together."""
        async with asyncio.TaskGroup() as asking:
            for _ in range(number):
                asking.create_task(self.ask(told))

    def leave(self) -> None:
        """Close every connection."""
        for writer in self._writers:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        self._writers.append(writer)
        return reader, writer


def main() -> int:
    """Measure and publish; correct only if all are refused as they must be, and none is lost."""
    total = REQUESTS // 4 if is_quick() else REQUESTS
    needed = total + 256
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < needed:
        print(f"needs {needed} open files: raise `ulimit -n`", file=sys.stderr)
        return 1
    key = secrets.token_hex(24)
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder), key) as (address, pid):
        even, burst, is_well, cpu_us = asyncio.run(_measure(address, key, pid, total))
    is_right = is_well and not even.wrong and not burst.wrong
    p99_ms = _quantile(even.waited_ms, 0.99)
    verdict = "met" if p99_ms <= LARGEST_MS else "missed"
    publish(
        Report(
            bar="refused_crowd",
            workload=" ".join(__doc__.split("\n\n", 1)[1].split()),
            target=f"503 with Retry-After within {LARGEST_MS:.0f} ms at p99 of those at a rate",
            verdict=verdict if is_right else "WRONG ANSWERS",
            figures={
                "held": LIMITS.queued_requests,
                "statuses": {str(k): v for k, v in (even.statuses + burst.statuses).items()},
                "rate_per_s": RATE,
                "even_p50_ms": _quantile(even.waited_ms, 0.5),
                "even_p95_ms": _quantile(even.waited_ms, 0.95),
                "even_p99_ms": p99_ms,
                "even_max_ms": max(even.waited_ms),
                "burst_requests": BURST,
                "burst_p50_ms": _quantile(burst.waited_ms, 0.5),
                "burst_max_ms": max(burst.waited_ms),
                "server_cpu_us_per_refusal": cpu_us,
                "is_well_afterwards": is_well,
            },
            notes=[
                "The load generator shares the cores with the server.",
                "One event loop answers a burst one after the other: its last request waits for "
                "all before it.",
            ],
        )
    )
    return 0 if is_right else 1


async def _measure(address: str, key: str, pid: int, total: int) -> tuple[Told, Told, bool, float]:
    crowd, even, burst = Crowd(address, key), Told(), Told()
    if not await _is_well(address, key):  # while a model is loaded, fewer may wait for it
        raise RuntimeError("the model does not answer")
    await crowd.hold(LIMITS.queued_requests)
    await _until_full(address, key)
    number = total - LIMITS.queued_requests - BURST
    before = _cpu_s(pid)
    await crowd.ask_evenly(number, even)
    cpu_us = (_cpu_s(pid) - before) / number * 1e6
    await crowd.ask_at_once(BURST, burst)
    crowd.leave()
    return even, burst, await _is_well(address, key), cpu_us


async def _until_full(address: str, key: str) -> None:
    headers = {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(base_url=address, headers=headers, timeout=60) as client:
        while True:
            with contextlib.suppress(httpx2.TimeoutException):
                answer = await client.post("/v1/completions", json=_question(), timeout=0.2)
                if answer.status_code == 503:
                    return


async def _is_well(address: str, key: str) -> bool:
    """Ask something that is answered, once those who left have been noticed."""
    headers = {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(base_url=address, headers=headers, timeout=60) as client:
        for _ in range(100):
            answer = await client.post("/v1/completions", json=_question(prompt="hello"))
            if answer.status_code == 200:
                return str(answer.json()["choices"][0]["text"]) == "hello"
            await asyncio.sleep(0.1)
    return False


def _question(*, prompt: str = "!hang") -> dict[str, object]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": 16}


def _request(address: str, key: str) -> bytes:
    body = json.dumps(_question()).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {urlsplit(address).netloc}\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _cpu_s(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _server(folder: Path, key: str) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "benchmarks.scripted_server", str(folder / "data"), key]
    with subprocess.Popen(
        [*command, "apart"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "server.log").open("w"),
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip(), server.pid
        finally:
            server.stdin.close()
            server.wait(timeout=120)


if __name__ == "__main__":
    sys.exit(main())
