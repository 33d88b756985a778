"""The bounds of a request's head, whatever the reads that it arrives in."""

import asyncio

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from purvey.server.protocol import HEAD_BYTES, BoundedProtocol

BODY = b"b" * (2 * HEAD_BYTES)
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
HALF_HEAD = b"GET / HTTP/1.1\r\nhost: a\r\nx-half: "


class Wire(asyncio.Transport):
    """A connection that keeps what is sent on it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.is_closed = bytearray(), False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        """Nothing more is read than the test gives."""

    def resume_reading(self) -> None:
        """The same."""


async def _hello(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


class Peer:
    """The client's side: reads of the server, one by one."""

    def __init__(self) -> None:
        config = Config(_hello, lifespan="off", log_config=None, access_log=False)
        config.load()
        self.wire = Wire()
        self._protocol = BoundedProtocol(config, ServerState(), {})
        self._protocol.connection_made(self.wire)

    async def send(self, *reads: bytes) -> None:
        for read in reads:
            self._protocol.data_received(read)
            for _ in range(10):
                await asyncio.sleep(0)

    def leave(self) -> None:
        self._protocol.connection_lost(None)


async def test_a_read_that_ends_a_large_body_may_begin_the_next_head() -> None:
    peer = Peer()
    await peer.send(POST + HALF_HEAD)
    assert not peer.wire.is_closing()
    await peer.send(b"whole\r\n\r\n")
    peer.leave()
    assert peer.wire.sent.count(b"hello") == 2


@pytest.mark.parametrize("reads", [[HALF_HEAD], [POST, HALF_HEAD], [POST + HALF_HEAD]])
async def test_a_head_that_does_not_end_is_refused(reads: list[bytes]) -> None:
    peer = Peer()
    await peer.send(*reads)
    assert not peer.wire.is_closing()
    await peer.send(*([b"x" * 2**10] * (HEAD_BYTES // 2**10 + 1)))
    peer.leave()
    assert peer.wire.is_closing()
    assert b"the headers exceed" in peer.wire.sent
