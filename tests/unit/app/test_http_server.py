import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from purvey.app.http_server import PROBE_INTERVAL_S, PROBES, SILENCE_S, HttpServer, bind
from purvey.errors import SettingError
from purvey.settings import Settings

App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def _hello(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@asynccontextmanager
async def _running(tmp_path: Path, **http: int) -> AsyncIterator[tuple[HttpServer, str]]:
    listener = bind("127.0.0.1", 0, backlog=16)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    settings = Settings.model_validate({"data_dir": tmp_path, "http": http})
    server = HttpServer(_hello, settings, listener)
    running = asyncio.create_task(server.run())
    await server.listening()
    try:
        yield server, url
    finally:
        server.stop()
        await running
        server.close()


async def test_it_answers_until_it_is_stopped(tmp_path: Path) -> None:
    async with _running(tmp_path) as (server, url):
        assert server.is_listening
        async with httpx2.AsyncClient() as client:
            answer = await client.get(url)
        assert answer.text == "hello"
        assert "server" not in answer.headers
    with pytest.raises(httpx2.ConnectError):
        async with httpx2.AsyncClient() as client:
            await client.get(url)


async def test_a_connection_too_many_gets_the_one_shape_of_errors(tmp_path: Path) -> None:
    async with (
        _running(tmp_path, max_connections=1) as (_, url),
        httpx2.AsyncClient() as first,
        httpx2.AsyncClient() as second,
    ):
        assert (await first.get(url)).status_code == 200
        refused = await second.get(url)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "server_is_overloaded"
    assert refused.headers["connection"] == "close"  # else it would be one too many for long
    assert refused.headers["x-request-id"].startswith("req_")


def test_a_taken_port_is_a_setting_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingError) as caught:
            bind("127.0.0.1", port, backlog=1)
    assert caught.value.param == "port"
    assert str(port) in caught.value.message


def test_the_kernel_asks_whether_a_silent_peer_is_there() -> None:
    with (
        bind("127.0.0.1", 0, backlog=1) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        patience = [
            accepted.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]
    assert patience == [SILENCE_S, PROBE_INTERVAL_S, PROBES]
