"""The ends of connections are seen: by whoever answers, whatever the client sent or left unread."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from purvey.server import protocol
from purvey.server.protocol import PIPELINED_BYTES, PIPELINED_REQUESTS, BoundedProtocol

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
LARGE = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 999999\r\n\r\n"


class Wire(asyncio.Transport):
    """A connection that keeps what is sent on it and knows whether it is read from."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.is_closed, self.is_aborted, self.is_read = bytearray(), False, False, True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True


class Peer:
    """The client's side, and how the application sees its requests."""

    def __init__(self) -> None:
        config = Config(
            self._answer, interface="asgi3", lifespan="off", log_config=None, access_log=False
        )
        config.load()
        self.wire, self.gone, self.may_answer = Wire(), list[Message](), asyncio.Event()
        self.num_asked = 0
        self.protocol = BoundedProtocol(config, ServerState(), {})
        self.protocol.connection_made(self.wire)

    async def send(self, *reads: bytes) -> None:
        for read in reads:
            self.protocol.data_received(read)
            await self.rest()

    async def rest(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer when the test lets it, or see the client leave."""
        self.num_asked += 1
        answering = asyncio.ensure_future(self.may_answer.wait())
        leaving = asyncio.ensure_future(_until_gone(receive))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            self.gone.append(leaving.result())
        leaving.cancel()
        answering.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


async def _until_gone(receive: Receive) -> Message:
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return message


@pytest.mark.row("OVL-07")
@pytest.mark.parametrize("behind", [b"", GET, GET * 3, LARGE])
@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_the_request_that_is_answered_sees_its_client_leave(
    behind: bytes, error: Exception | None
) -> None:
    peer = Peer()
    await peer.send(GET + behind)
    assert peer.wire.is_read, "the end of a connection that is not read is not seen"
    peer.protocol.connection_lost(error)
    await peer.rest()
    assert peer.gone == [{"type": "http.disconnect"}]
    assert peer.num_asked == 1


async def test_pipelined_requests_are_answered_in_turn() -> None:
    peer = Peer()
    await peer.send(GET * (1 + PIPELINED_REQUESTS))
    assert peer.num_asked == 1
    peer.may_answer.set()
    for _ in range(PIPELINED_REQUESTS):
        await peer.rest()
    assert peer.wire.sent.count(b"hello") == 1 + PIPELINED_REQUESTS
    assert not peer.wire.is_closing()
    await peer.send(GET * (1 + PIPELINED_REQUESTS))  # what was answered does not count any more
    for _ in range(PIPELINED_REQUESTS):
        await peer.rest()
    assert peer.wire.sent.count(b"hello") == 2 * (1 + PIPELINED_REQUESTS)


@pytest.mark.parametrize(
    "reads",
    [[GET * (2 + PIPELINED_REQUESTS)], [GET + LARGE, *[b"x" * 2**10] * (PIPELINED_BYTES // 2**10)]],
)
async def test_too_much_behind_a_request_cuts_the_connection(reads: list[bytes]) -> None:
    peer = Peer()
    await peer.send(*reads)
    assert peer.wire.is_closing()
    assert peer.wire.sent == b"", "no answer may stand where that of the first request is due"


@pytest.mark.row("OVL-15")
async def test_a_client_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WRITE_TIMEOUT_S", 0.01)
    peer = Peer()
    await peer.send(GET)
    peer.protocol.pause_writing()
    async with asyncio.timeout(10):
        while not peer.wire.is_aborted:  # noqa: ASYNC110 (the wire has no event for it)
            await asyncio.sleep(0.005)
    peer.protocol.connection_lost(None)  # as the transport does
    await peer.rest()
    assert peer.gone == [{"type": "http.disconnect"}]


@pytest.mark.row("OVL-15")
@pytest.mark.parametrize("how", ["reads", "leaves"])
async def test_a_client_that_reads_on_or_leaves_is_not(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(protocol, "WRITE_TIMEOUT_S", 0.01)
    peer = Peer()
    peer.protocol.pause_writing()
    if how == "reads":
        peer.protocol.resume_writing()
    else:
        peer.protocol.connection_lost(None)
    await asyncio.sleep(0.03)
    assert not peer.wire.is_aborted
