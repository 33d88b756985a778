"""More connections than a process may hold: refused at once, and forgotten when they leave."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.soak.book import refusal_code
from tests.soak.soak import Soak, Soaked, soaked
from tests.soak.soaked_server import KEY

SPARE_FDS, NUM_CONNECTIONS = 12, 100
GET = f"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\n\r\n".encode()
AUTHORIZED = {"authorization": f"Bearer {KEY}"}


async def prepared(server: Soaked) -> Soak:
    soak = Soak(server, seed=1)
    await soak.prepare()
    return soak


@contextmanager
def crowd(server: Soaked) -> Iterator[list[socket.socket]]:
    """Connect more often than the process has file descriptors for."""
    host, port = server.base_url.removeprefix("http://").split(":")
    with ExitStack() as open_ones:
        yield [
            open_ones.enter_context(socket.create_connection((host, int(port)), timeout=30))
            for _ in range(NUM_CONNECTIONS)
        ]


def asked(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    """Ask on a connection; return status 0 if the server has closed it."""
    answer = HTTPResponse(connection)
    try:
        connection.sendall(request)
        answer.begin()
    except ConnectionError:
        return 0, b""
    return answer.status, answer.read()


@pytest.mark.row("OVL-19")
def test_a_crowd_beyond_the_file_descriptors_is_refused_and_forgotten(tmp_path: Path) -> None:
    with soaked(tmp_path) as server:
        soak = asyncio.run(prepared(server))
        most = soak.samples[0].fds + SPARE_FDS
        before = server.process.rlimit(psutil.RLIMIT_NOFILE)
        server.process.rlimit(psutil.RLIMIT_NOFILE, (most, before[1]))
        with crowd(server) as connections:
            statuses = [asked(connection, GET)[0] for connection in connections]
            assert statuses[0] == 200, "who was there first is served"
            assert statuses[-1] == 0, "who came last is refused"
            assert set(statuses) == {0, 200}
            status, told = asked(connections[0], upload())
            assert (status, refusal_code(told)) == (503, "storage_unavailable")
        httpx2.get(f"{server.base_url}/healthz").raise_for_status()
        asyncio.run(soak.rest())
        assert soak.samples[-1].fds <= soak.samples[0].fds
        assert soak.samples[-1].temporary == ()
        server.process.rlimit(psutil.RLIMIT_NOFILE, before)
        kept = httpx2.post(
            f"{server.base_url}/v1/files",
            files={"file": ("a", b"a"), "purpose": (None, b"user_data")},
            headers=AUTHORIZED,
        )
        kept.raise_for_status()


def upload() -> bytes:
    """Return an upload that is too large to be held in memory."""
    part = 'content-disposition: form-data; name="{}"'
    body = (
        f'--b\r\n{part.format("file")}; filename="a"\r\n\r\n{"x" * 1_200_000}\r\n'
        f"--b\r\n{part.format('purpose')}\r\n\r\nuser_data\r\n--b--\r\n"
    )
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: multipart/form-data; boundary=b\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()
