"""Clients of a soak that speak over a bare socket: they break off, reset, and send nonsense."""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from tests.soak.book import ENDLESS, Book

PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Rude:
    """Misbehaviour towards one server.

    Args:
        host: The server's.
        port: The server's.
        key: A valid key.
        book: Where requests are counted.
        chance: Decides.
    """

    host: str
    port: int
    key: str
    book: Book
    chance: Random

    @property
    def ways(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """Every way to misbehave."""
        return (
            self.connect_and_leave,
            self.half_a_head,
            self.half_a_body,
            self.half_an_upload,
            self.nonsense,
            self.too_large,
            self.leave_in_mid_stream,
            self.leave_in_mid_download,
            self.pipeline_and_leave,
            self.ask_and_leave,
        )

    async def connect_and_leave(self) -> None:
        """Say nothing."""
        await self._say(b"")

    async def half_a_head(self) -> None:
        """Stop in the middle of a header."""
        await self._say(b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nauthoriz")

    async def half_a_body(self) -> None:
        """Announce more JSON than comes."""
        body = json.dumps({"model": "echo", "prompt": "x" * 4_000}).encode()
        await self._say(self._head("POST", "/v1/completions", len(body)) + body[:2_000])

    async def half_an_upload(self) -> None:
        """Stop in the middle of a file, small or large enough to be spooled to the disk."""
        size = self.chance.choice((10_000, 1_500_000))
        begun = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        kind = f"multipart/form-data; boundary=b\r\nidempotency-key: {self.chance.getrandbits(64)}"
        head = self._head("POST", "/v1/files", 2 * size, kind)
        await self._say(head + begun + bytes(size))

    async def nonsense(self) -> None:
        """Send what is not HTTP; the refusal has the one shape."""
        await self._refused(self.chance.choice((b"\x16\x03\x01\x02\x00", b"BREW /\r\n\r\n")), 400)

    async def too_large(self) -> None:
        """Announce a body beyond every limit."""
        await self._refused(self._head("POST", "/v1/chat/completions", 2**40), 413)

    async def leave_in_mid_stream(self) -> None:
        """Leave a long answer when its first words have come."""
        text = "on and on " * 60
        body = {"model": ENDLESS, "messages": [{"role": "user", "content": text}], "stream": True}
        raw = json.dumps(body).encode()
        request = self._head("POST", "/v1/chat/completions", len(raw)) + raw
        await self._say(request, until=b'"content":')
        self.book.endless += 1
        self.book.metered("chat", given=len(f"user: {text}\n"))

    async def leave_in_mid_download(self) -> None:
        """Leave a file when its first bytes have come."""
        if self.book.files:
            chosen = self.chance.choice(sorted(self.book.files))
            await self._say(self._head("GET", f"/v1/files/{chosen}/content", 0), until=b"HTTP/1.1")

    async def pipeline_and_leave(self) -> None:
        """Send several requests at once and wait for none of the answers."""
        one = self._head("GET", "/v1/models", 0)
        await self._say(one * self.chance.choice((2, 8, 40)))

    async def ask_and_leave(self) -> None:
        """Leave before the answer."""
        await self._say(self._head("GET", "/v1/files?limit=100", 0))

    async def _say(self, request: bytes, *, until: bytes = b"") -> None:
        """Send, read until the answer holds the bytes, and close or reset the connection."""
        self.book.sent()
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(request)
            await writer.drain()
            async with asyncio.timeout(PATIENCE_S):
                seen = b""
                while until not in seen:
                    seen += (more := await reader.read(65_536))
                    assert more, f"the answer ended without {until!r}: {seen!r}"
        except ConnectionError:
            assert not until, "the server closed the connection before its answer"
        finally:
            await self._leave(writer)

    async def _refused(self, request: bytes, status: int) -> None:
        self.book.sent()
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(request)
            async with asyncio.timeout(PATIENCE_S):
                answer = await reader.read(-1)
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *headers = head.decode().split("\r\n")
        named = dict(line.lower().split(": ", 1) for line in headers)
        self.book.check(int(first.split()[1]), body, named.get("x-request-id", ""), {status})

    async def _leave(self, writer: asyncio.StreamWriter) -> None:
        if self.chance.random() < 0.5:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    def _head(self, method: str, path: str, size: int, kind: str = "application/json") -> bytes:
        length = f"content-type: {kind}\r\ncontent-length: {size}\r\n" if method == "POST" else ""
        return (
            f"{method} {path} HTTP/1.1\r\nhost: {self.host}\r\n"
            f"authorization: Bearer {self.key}\r\n{length}\r\n"
        ).encode()
