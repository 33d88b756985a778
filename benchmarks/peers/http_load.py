"""A load of streamed completions over HTTP/1.1: written by hand, so that it costs little.

Every stream sends its requests one after the other; tokens are counted by the server's own usage.
"""

import asyncio
import json
import time
import urllib.parse
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.peers.server import HttpPeer

MAX_TTFT_S, MAX_ITL_S = 2.0, 0.2


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One answered request: moments in seconds from sending, and tokens by usage."""

    first_s: float
    gaps_s: tuple[float, ...]
    prompt_tokens: int
    tokens: int

    @property
    def is_good(self) -> bool:
        """First token within 2 s, and 95 % of the gaps within 200 ms."""
        gaps = sorted(self.gaps_s) or [0.0]
        return self.first_s <= MAX_TTFT_S and gaps[int(0.95 * (len(gaps) - 1))] <= MAX_ITL_S


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a load gave: wall and server processor seconds, and its streams."""

    wall_s: float
    server_cpu_s: float
    streams: tuple[Stream, ...]

    @property
    def tokens(self) -> int:
        """Output tokens of all streams."""
        return sum(stream.tokens for stream in self.streams)

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second of the whole load, prefill included."""
        return self.tokens / self.wall_s

    @property
    def good_tokens_per_s(self) -> float:
        """The same, of streams that kept both promises."""
        return sum(stream.tokens for stream in self.streams if stream.is_good) / self.wall_s

    @property
    def cpu_us_per_token(self) -> float:
        """The server's processor microseconds per output token, prompts included."""
        return self.server_cpu_s * 1e6 / self.tokens


def load(
    peer: HttpPeer, prompts: Sequence[str], *, max_tokens: int, extra: Mapping[str, Any]
) -> Load:
    """Send every prompt at once as a stream of its own, and wait for all of them."""
    before, start = peer.cpu_seconds(), time.perf_counter()
    streams = asyncio.run(_all(peer, prompts, max_tokens, extra))
    return Load(
        wall_s=time.perf_counter() - start,
        server_cpu_s=peer.cpu_seconds() - before,
        streams=tuple(streams),
    )


async def _all(
    peer: HttpPeer, prompts: Sequence[str], max_tokens: int, extra: Mapping[str, Any]
) -> list[Stream]:
    body = {"model": peer.model, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    return await asyncio.gather(
        *(_one(peer, {**body, **extra, "prompt": prompt}) for prompt in prompts)
    )


async def _one(peer: HttpPeer, body: Mapping[str, Any]) -> Stream:
    where = urllib.parse.urlsplit(peer.base_url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    text = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {where.netloc}\r\n"
        f"Authorization: Bearer {peer.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    )
    start = time.perf_counter()
    writer.write(head.encode() + text)
    moments: list[float] = []
    usage: dict[str, int] = {}
    try:
        async for chunk in read_events(reader):
            usage = chunk.get("usage") or usage
            if any(choice.get("text") for choice in chunk.get("choices", ())):
                moments.append(time.perf_counter() - start)
    finally:
        writer.close()
    assert moments, "a stream without text"
    assert usage["completion_tokens"] == body["max_tokens"], f"ended early: {usage}"
    return Stream(
        first_s=moments[0],
        gaps_s=tuple(b - a for a, b in pairwise(moments)),
        prompt_tokens=usage["prompt_tokens"],
        tokens=usage["completion_tokens"],
    )


async def read_events(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Read the events of a chunked answer, each a JSON object."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = head.split(" ", 2)[1]
    if status != "200":
        raise RuntimeError(f"{head} {(await reader.read(2_000)).decode(errors='replace')}")
    assert "transfer-encoding: chunked" in head, head
    held = b""
    while size := int(await reader.readline(), 16):
        held += await reader.readexactly(size)
        await reader.readline()
        *lines, held = held.split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                yield json.loads(data)
