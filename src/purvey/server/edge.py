"""The outermost layer: ids, headers, the host check, one log line, and the last catch.

Plain ASGI on purpose: it runs for every request and every chunk of a stream.
"""

import logging

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from purvey.contracts.clock import Clock
from purvey.contracts.ids import new_id
from purvey.errors import InternalError, InvalidValueError, PurveyError
from purvey.server.policy import REQUEST_ID
from purvey.server.problems import from_framework, internal, problem
from purvey.telemetry import logs, metrics

logger = logging.getLogger(__name__)
CLIENT_GONE = 499
"""Status in the log when the client left before its answer."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods that metrics tell apart; a caller may send any of the many that HTTP has."""
_ALWAYS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


class Edge:
    """ASGI middleware around the router.

    Args:
        app: The router.
        clock: For durations.
        allowed_hosts: Accepted host names; empty or `*` accepts any well-formed one.
    """

    def __init__(self, app: ASGIApp, *, clock: Clock, allowed_hosts: tuple[str, ...]) -> None:
        self._app = app
        self._clock = clock
        is_any = "*" in allowed_hosts
        self._hosts = frozenset[str]() if is_any else frozenset(map(str.lower, allowed_hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; web sockets are closed."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope[REQUEST_ID] = new_id("req_")
        started_at = self._clock.monotonic()
        marked = _Marked(send, request_id)
        method = scope["method"]
        if method == "HEAD":
            # A copy: the HTTP server looks at its own scope and leaves the body out.
            scope = {**scope, "method": "GET"}
        with logs.bind(request_id=request_id):
            await self._guarded(scope, receive, marked)
            seconds = self._clock.monotonic() - started_at
            template = getattr(scope.get("route"), "path_format", "unmatched")
            label = method if method in METHODS else "other"
            metrics.REQUESTS.labels(template, label, marked.status).inc()
            metrics.REQUEST_SECONDS.labels(template, label).observe(seconds)
            logger.info(
                "request.finished",
                extra={
                    "method": method,
                    "route": template,
                    "status": marked.status,
                    "duration_s": round(seconds, 6),
                },
            )

    async def _guarded(self, scope: Scope, receive: Receive, send: "_Marked") -> None:
        try:
            self._check_host(scope)
            await self._app(scope, receive, send)
        except ClientDisconnect:
            send.status = CLIENT_GONE
        except PurveyError as error:
            await self._refuse(error, scope, receive, send)
        except HTTPException as error:
            await self._refuse(from_framework(error), scope, receive, send)
        except Exception:
            logger.exception("request.failed")
            metrics.BROAD_CATCHES.labels("server.edge").inc()
            await self._refuse(internal(), scope, receive, send)

    async def _refuse(
        self, error: PurveyError, scope: Scope, receive: Receive, send: "_Marked"
    ) -> None:
        if error.status >= 500:
            # An overload refuses thousands: only a bug, or what has a cause, tells its place.
            is_told_whole = isinstance(error, InternalError) or error.__cause__ is not None
            logger.warning(
                "request.refused",
                extra={"code": error.code, "reason": error.message},
                exc_info=error if is_told_whole else None,
            )
        if not send.has_started:
            await problem(error)(scope, receive, send)

    def _check_host(self, scope: Scope) -> None:
        if not self._hosts:
            return
        host = Headers(scope=scope).get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name.lower() not in self._hosts:
            raise InvalidValueError("the Host header names no host of this server.")


class _Marked:
    """`send` that adds the headers of every answer and remembers the status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._headers = [(b"x-request-id", request_id.encode()), *_ALWAYS]
        self.status = CLIENT_GONE
        self.has_started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._headers]
        await self._send(message)
