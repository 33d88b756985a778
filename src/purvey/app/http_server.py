"""uvicorn as one task of ours: signals, sockets and the end are the application's business."""

import asyncio
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from purvey.contracts.ids import new_id
from purvey.errors import CapacityError, SettingError
from purvey.server.problems import problem
from purvey.server.protocol import BoundedProtocol
from purvey.settings import Settings

SILENCE_S = 30
"""How long nothing may pass on a connection before the kernel asks whether its peer is there."""
PROBES, PROBE_INTERVAL_S = 3, 10
"""Questions without an answer that end the connection: a peer may vanish without a word."""


def bind(host: str, port: int, *, backlog: int) -> socket.socket:
    """Return a listening socket, so that a taken port is known before anything else starts.

    Raises:
        SettingError: The address cannot be listened on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=backlog)
        _keep_alive(listener)
    except OSError as error:
        raise SettingError(
            f"cannot listen on {host!r} port {port}: {error.strerror}.",
            param="port",
            hint="Is another server running there? Choose another with PURVEY_PORT or --port.",
        ) from error
    return listener


def _keep_alive(listener: socket.socket) -> None:
    """Set what every accepted connection takes over."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_S)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_INTERVAL_S)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)


class HttpServer:
    """One listening HTTP server.

    Args:
        app: What answers.
        settings: Of connections.
        listener: A socket from `bind`; closed with the server.
    """

    def __init__(self, app: ASGIApp, settings: Settings, listener: socket.socket) -> None:
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                _RoomFor(self, app, max_connections=settings.http.max_connections),
                loop="none",
                http=BoundedProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=settings.http.backlog,
                timeout_keep_alive=math.ceil(settings.http.keep_alive_s),
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
            )
        )

    @property
    def num_connections(self) -> int:
        """Open connections."""
        return len(self._server.server_state.connections)

    @property
    def is_listening(self) -> bool:
        """Whether requests are answered."""
        return self._server.started and not self._server.should_exit

    async def run(self) -> None:
        """Answer requests until `stop`, then until those under way are answered."""
        await self._server.serve(sockets=[self._listener])

    async def listening(self) -> None:
        """Wait until requests are answered."""
        while not self._server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.005)

    def close(self) -> None:
        """Give the address up, if `run` never has; safe to call twice."""
        self._listener.close()

    def stop(self) -> None:
        """Accept nothing new; a second call cuts off what still runs."""
        self._server.force_exit = self._server.should_exit
        self._server.should_exit = True


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn would die of them again after a graceful end."""
        yield


class _RoomFor:
    """Refuse requests on connections beyond the limit, in the one shape of errors."""

    def __init__(self, server: HttpServer, app: ASGIApp, *, max_connections: int) -> None:
        self._server, self._app, self._max_connections = server, app, max_connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._server.num_connections > self._max_connections:
            refusal = problem(CapacityError("too many connections are open."))
            refusal.headers["connection"] = "close"
            refusal.headers["x-request-id"] = new_id("req_")
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)
