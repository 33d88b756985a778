"""HTTP/1.1 as a client, on real sockets: whole answers however they are cut, or an error."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from purvey.network.base_urls import read_base_url
from purvey.network.connections import KEEP_S, Connections
from purvey.network.http1 import HEAD_BYTES, HELD_BYTES, Connection, DroppedError, HttpError
from purvey.testing.certificate import make_certificate
from purvey.testing.clock import FakeClock

ASKED = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
CHUNKED = (
    HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nlate: 1\r\n\r\n"
)
SIZED = HEAD + b"content-length: 7\r\n\r\nabcdefg"
ENDED = HEAD + b"\r\nabcdefg"
CONTINUED = b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\n" + SIZED
PATIENCE_S = 20.0


class Server:
    """Sends the same pieces to each request; closes where told."""

    def __init__(self, pieces: Sequence[bytes], *, is_closing: bool) -> None:
        self.num_connections = 0
        self.has_lost_one = asyncio.Event()
        self._pieces, self._is_closing = pieces, is_closing
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                for piece in self._pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if self._is_closing:
                    break
        except (asyncio.IncompleteReadError, OSError):
            self.has_lost_one.set()
        finally:
            writer.close()


@asynccontextmanager
async def _serving(
    clock: FakeClock, *pieces: bytes, is_closing: bool = False, most: int = 4
) -> AsyncIterator[tuple[Server, Connections]]:
    server = Server(pieces, is_closing=is_closing)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    url = read_base_url(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", name="x")
    connections = Connections(url, most=most, monotonic=clock.monotonic)
    try:
        yield server, connections
    finally:
        await connections.close()
        listening.close()


async def _content(connection: Connection, *, silence_s: float = PATIENCE_S) -> bytes:
    await connection.send(ASKED)
    await connection.head(silence_s=silence_s)
    return b"".join([piece async for piece in connection.pieces(silence_s=silence_s)])


@pytest.mark.parametrize("size", [1, 2, 5, 1_000])
@pytest.mark.parametrize(
    ("raw", "is_closing"),
    [(CHUNKED, False), (SIZED, False), (CONTINUED, False), (ENDED, True)],
    ids=["chunked", "sized", "continued", "ended"],
)
async def test_an_answer_is_whole_however_it_is_cut(
    clock: FakeClock, raw: bytes, size: int, is_closing: bool
) -> None:
    pieces = [raw[i : i + size] for i in range(0, len(raw), size)]
    async with _serving(clock, *pieces, is_closing=is_closing) as (server, connections):
        for _ in range(3):
            async with connections.one() as connection:
                assert await _content(connection) == b"abcdefg"
                assert connection.status == 200
                assert connection.headers["content-type"] == "text/plain"
                assert not {"late", "x"} & connection.headers.keys()
        assert server.num_connections == (3 if is_closing else 1)


@pytest.mark.parametrize(
    "raw",
    [
        CHUNKED[:-9],
        SIZED[:-1],
        HEAD[:-5],
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"content-length: 7\r\ncontent-length: 8\r\n\r\nabcdefg",
        HEAD + b"content-length: -1\r\n\r\n",
        HEAD + b"content-length: 7\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"bad header\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nraw",
        HEAD + b"x: " + b"y" * HEAD_BYTES + b"\r\n\r\n",
        HEAD + b"x: y\r\n" * (HEAD_BYTES // 5) + b"\r\n",
    ],
    ids=lambda raw: str(raw[-30:]),
)
async def test_half_an_answer_is_an_error_and_ends_the_connection(
    clock: FakeClock, raw: bytes
) -> None:
    async with _serving(clock, raw, is_closing=True) as (_, connections):
        async with connections.one() as connection:
            with pytest.raises(HttpError) as caught:
                await _content(connection)
            assert not isinstance(caught.value, DroppedError)
        assert not connection.is_reusable


async def test_nothing_at_all_is_told_from_half_an_answer(clock: FakeClock) -> None:
    async with (
        _serving(clock, is_closing=True) as (_, connections),
        connections.one() as connection,
    ):
        with pytest.raises(DroppedError):
            await _content(connection)
        with pytest.raises(DroppedError):
            await connection.send(ASKED)


@pytest.mark.parametrize(
    "more", [b"x", SIZED, b"HTTP/1.1 408 Timeout\r\ncontent-length: 0\r\n\r\n"], ids=str
)
@pytest.mark.parametrize("is_apart", [False, True])
async def test_what_nobody_asked_for_is_never_the_next_answer(
    clock: FakeClock, more: bytes, is_apart: bool
) -> None:
    pieces = [SIZED, more] if is_apart else [SIZED + more]
    async with _serving(clock, *pieces) as (server, connections):
        for _ in range(2):
            async with connections.one() as connection:
                assert await _content(connection) == b"abcdefg"
                assert connection.status == 200
            await connection.wait_closed()
        assert server.num_connections == 2


async def test_a_connection_that_was_not_read_for_a_while_is_read_again(clock: FakeClock) -> None:
    size = HELD_BYTES + 1  # reading stops at the last byte
    raw = HEAD + f"content-length: {size}\r\n\r\n".encode() + b"a" * size
    async with _serving(clock, raw) as (server, connections):
        for _ in range(2):
            async with connections.one() as connection:
                await connection.send(ASKED)
                await connection.head(silence_s=PATIENCE_S)
                async with asyncio.timeout(PATIENCE_S):
                    while connection.num_held < size:  # noqa: ASYNC110 (nothing tells of it)
                        await asyncio.sleep(0)
                pieces = [piece async for piece in connection.pieces(silence_s=PATIENCE_S)]
                assert len(b"".join(pieces)) == size
        assert server.num_connections == 1


@pytest.mark.parametrize("head", [b"connection: close\r\n", b""], ids=["said", "older"])
async def test_a_connection_that_will_close_is_not_kept(clock: FakeClock, head: bytes) -> None:
    raw = SIZED.replace(b"\r\n\r\n", b"\r\n" + head + b"\r\n")
    raw = raw if head else raw.replace(b"HTTP/1.1", b"HTTP/1.0")
    async with _serving(clock, raw) as (server, connections):
        for _ in range(2):
            async with connections.one() as connection:
                assert await _content(connection) == b"abcdefg"
        assert server.num_connections == 2


async def test_an_idle_connection_is_kept_for_a_while(clock: FakeClock) -> None:
    async with _serving(clock, SIZED) as (server, connections):
        for wait_s, num_connections in ((0, 1), (KEEP_S - 1, 1), (KEEP_S + 1, 2)):
            clock.advance(wait_s)
            async with connections.one() as connection:
                await _content(connection)
            assert server.num_connections == num_connections


@pytest.mark.parametrize("leave", ["early", "cancelled", "silent"])
async def test_an_answer_that_is_left_ends_its_connection(clock: FakeClock, leave: str) -> None:
    raw = HEAD + b"content-length: 9\r\n\r\nabc"
    async with _serving(clock, raw) as (server, connections):
        async with connections.one() as connection:
            if leave == "early":
                await connection.send(ASKED)
                await connection.head(silence_s=PATIENCE_S)
            elif leave == "silent":
                with pytest.raises(TimeoutError):
                    await _content(connection, silence_s=0.01)
            else:
                reading = asyncio.create_task(_content(connection))
                await asyncio.sleep(0.01)
                reading.cancel()
                await asyncio.wait([reading])
        await server.has_lost_one.wait()
        assert not connection.is_reusable


async def test_a_slow_reader_holds_little(clock: FakeClock) -> None:
    size = 64 * HELD_BYTES
    raw = HEAD + b"content-length: %d\r\n\r\n" % size
    pieces = [raw, *[b"x" * HELD_BYTES] * 64]
    async with _serving(clock, *pieces) as (_, connections), connections.one() as connection:
        await connection.send(ASKED)
        await connection.head(silence_s=PATIENCE_S)
        total = 0
        async for piece in connection.pieces(silence_s=PATIENCE_S):
            total += len(piece)
            await asyncio.sleep(0.0005)
            assert connection.num_held <= 3 * HELD_BYTES
        assert total == size


@pytest.mark.parametrize("host", ["localhost", "box.example"])
async def test_a_certificate_is_checked_for_the_name(clock: FakeClock, host: str) -> None:
    certificate = make_certificate(host)
    server = Server([SIZED], is_closing=False)
    listening = await asyncio.start_server(
        server.serve, "127.0.0.1", 0, ssl=certificate.server_context()
    )
    port = listening.sockets[0].getsockname()[1]
    url = read_base_url(f"https://localhost:{port}", name="x")
    for tls in (certificate.client_context(), None):
        connections = Connections(url, most=1, monotonic=clock.monotonic, tls=tls)
        if tls is not None and host == "localhost":
            async with connections.one() as connection:
                assert await _content(connection) == b"abcdefg"
        else:
            with pytest.raises(OSError, match="certificate"):
                async with connections.one():
                    pytest.fail("it was believed")
        await connections.close()
    listening.close()
