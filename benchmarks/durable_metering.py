"""Bar 15: settled, fsynced, metered chat requests per second, and the latency they add.

The engine is scripted and answers at once, so what is measured is HTTP, keys, validation, the hop
to the engine and one durable ledger row per request. Closed loop with 32 connections for the rate;
open loop at 200 requests per second for the latency.
"""

import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from benchmarks.harness import Report, publish, spread
from benchmarks.scripted_server import MODEL
from purvey.client.purvey import Purvey

CONNECTIONS, REQUESTS, ROUNDS, OPEN_LOOP_RATE = 32, 4_000, 3, 200


class Connection:
    """One keep-alive HTTP/1.1 connection that repeats one request; the client must stay cheap."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, request: bytes) -> None:
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode("latin-1").splitlines()[0])
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await self._reader.readexactly(length)


def main() -> int:
    """Measure and publish; correct only if the ledger holds what was answered, exactly."""
    key = secrets.token_hex(24)
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder), key) as (address, pid):
        request = _request(address, key)
        asyncio.run(_closed_loop(address, request, 500))  # warm-up
        rates, cpu_us = [], []
        for _ in range(ROUNDS):
            before, start = _cpu_s(pid), time.perf_counter()
            asyncio.run(_closed_loop(address, request, REQUESTS))
            rates.append(REQUESTS / (time.perf_counter() - start))
            cpu_us.append((_cpu_s(pid) - before) / REQUESTS * 1e6)
        before_open = _buckets(address, key)
        latencies = sorted(asyncio.run(_open_loop(address, request, 1_000)))
        metering_s = _p95(before_open, _buckets(address, key))
        sent = 500 + ROUNDS * REQUESTS + 1_000
        with Purvey(address, key) as client:
            ledger = sum(t.requests for t in client.server.usage(by="kind") if t.group == "chat")
    p95_ms = latencies[int(len(latencies) * 0.95)] * 1e3
    exact = ledger == sent
    met = statistics.median(rates) >= 1_000 and p95_ms <= 5
    publish(
        Report(
            bar="durable_metering",
            workload=__doc__.split("\n\n")[1].replace("\n", " "),
            target=">= 1,000 requests/s, <= 5 ms added at p95",
            verdict=("met" if met else "missed") if exact else "WRONG LEDGER",
            figures={
                "requests_per_s": spread(rates),
                "server_cpu_us_per_request": spread(cpu_us),
                "open_loop_p50_ms": statistics.median(latencies) * 1e3,
                "open_loop_p95_ms": p95_ms,
                "of_which_metering_p95_ms": metering_s * 1e3,
                "ledger_rows": ledger,
                "requests_answered": sent,
            },
            notes=[
                "The load generator shares the machine's two cores with the server.",
                "The open-loop latency is the whole request, HTTP and queueing included; the part "
                "of metering is the server's own `purvey_meter_record_seconds`, interpolated.",
            ],
        )
    )
    return 0 if exact else 1


def _buckets(address: str, key: str) -> dict[float, float]:
    """Return the cumulative histogram of what metering took, upper bound to count."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=address, headers=headers) as client:
        lines = client.get("/metrics").raise_for_status().text.splitlines()
    name = 'purvey_meter_record_seconds_bucket{le="'
    found = (line.removeprefix(name).split('"} ') for line in lines if line.startswith(name))
    return {float(bound): float(count) for bound, count in found}


def _p95(before: dict[float, float], after: dict[float, float]) -> float:
    """Interpolate the 95th percentile of what came between two looks at a histogram."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in after}
    wanted = 0.95 * max(counts.values())
    low, below = 0.0, 0.0
    for bound, count in counts.items():
        if count >= wanted:
            return low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    return low


@contextmanager
def _server(folder: Path, key: str) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "benchmarks.scripted_server", str(folder / "data"), key]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip(), server.pid
    finally:
        server.stdin.close()
        server.wait(timeout=60)


def _request(address: str, key: str) -> bytes:
    body = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "hi"}],
            "max_completion_tokens": 4,
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {urlsplit(address).netloc}\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _closed_loop(address: str, request: bytes, requests: int) -> None:
    async def worker(connection: Connection) -> None:
        for _ in range(requests // CONNECTIONS):
            await connection.ask(request)

    connections = [await _connect(address) for _ in range(CONNECTIONS)]
    await asyncio.gather(*(worker(c) for c in connections))
    for _ in range(requests % CONNECTIONS):
        await connections[0].ask(request)


async def _open_loop(address: str, request: bytes, requests: int) -> list[float]:
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await _connect(address))
    latencies: list[float] = []

    async def one(due: float) -> None:
        connection = await free.get()
        await connection.ask(request)
        latencies.append(time.perf_counter() - due)
        free.put_nowait(connection)

    start, tasks = time.perf_counter(), []
    for number in range(requests):
        due = start + number / OPEN_LOOP_RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return latencies


async def _connect(address: str) -> Connection:
    parts = urlsplit(address)
    return Connection(*await asyncio.open_connection(parts.hostname, parts.port))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
