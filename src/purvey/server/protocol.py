"""HTTP/1.1 below the application: what cannot be parsed is refused in the one shape of errors.

uvicorn answers such requests in plain text and sets no bounds on a request's head; this sets
them: how many bytes, how many headers, how long it may take to arrive. It also bounds how long a
client may leave an answer unread, what it may send behind a request that is being answered, so
that the end of a connection is seen whatever its client does, and what of a body may come after
its answer.
"""

import asyncio
from http import HTTPStatus

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from purvey.contracts.ids import new_id
from purvey.errors import InvalidValueError, PurveyError, ReadTimeoutError
from purvey.server.problems import problem

HEAD_BYTES = 64 * 2**10
"""A request's line and headers, counted in whole reads of the socket. A read that also ends the
request before is not counted, since its larger part may be that one's body."""
HEADERS = 256
"""Headers of one request."""
HEAD_TIMEOUT_S = 30.0
"""From the connection, or the first byte of a request, to the end of its headers."""
WRITE_TIMEOUT_S = 30.0
"""How long a client may take to read what has been held back for it (up to 64 KiB)."""
PIPELINED_REQUESTS = 16
"""Requests that may wait on one connection while another one is answered."""
PIPELINED_BYTES = 64 * 2**10
"""Bytes of them, counted in whole reads of the socket."""
REST_TIMEOUT_S = 10.0
"""How long the rest of a body may take whose request was answered without it."""
REST_BYTES = 2**20
"""Bytes of such a rest, counted in whole reads of the socket."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds, and refusals that a client of ours understands."""

    _unfinished_bytes = 0
    _is_in_head = True
    _has_ended_one = False
    _patience: asyncio.TimerHandle | None = None
    _refusal: PurveyError | None = None
    _stalled: asyncio.TimerHandle | None = None
    _answering: RequestResponseCycle | None = None
    _pipelined_bytes = 0
    _is_in_body = _has_read_body = False
    _rest: asyncio.TimerHandle | None = None
    _rest_bytes = 0
    _framing_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begin to wait for a first request."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and let the request that is being answered know."""
        self._stop_waiting()
        self._end_rest()
        self._go_on_writing()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        # uvicorn tells the newest request only, which may be one that waits behind this one.
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def pause_writing(self) -> None:
        """Give the client a while to read; then the connection is cut."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._go_on_writing()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and bound what is not yet a whole head."""
        self._has_ended_one = self._has_read_body = False
        super().data_received(data)
        if self.pipeline:
            self._pipelined_bytes += len(data)
            if self._pipelined_bytes > PIPELINED_BYTES:
                self._refuse(_too_many())
        if self.transport.is_closing():
            return
        if self._is_in_head:
            self._bound_head(len(data))
        elif self.cycle.response_complete:
            self._bound_rest(len(data))
        elif self._is_in_body:
            self._bound_framing(len(data))

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._is_in_head, self._unfinished_bytes, self._framing_bytes = True, 0, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; what is sent as one behind a body is not.

        Raises:
            InvalidValueError: There are too many, or the body is coded in a way that is not
                undone here; the parser hands it to `send_400_response`.
        """
        if self._is_in_body:
            return
        if len(self.headers) >= HEADERS:
            self._refusal = _too_large()
            raise self._refusal
        if name.lower() == b"transfer-encoding" and value.strip().lower() != b"chunked":
            self._refusal = InvalidValueError("the only transfer encoding is 'chunked'.")
            raise self._refusal
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End the head.

        Raises:
            InvalidValueError: Too many requests wait; handed on as by `on_header`.
        """
        self._is_in_head = False
        self._stop_waiting()
        if len(self.pipeline) >= PIPELINED_REQUESTS:
            self._refusal = _too_many()
            raise self._refusal
        super().on_headers_complete()
        self._is_in_body = True
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # the parser reads nothing behind it
        if self.pipeline:
            self.flow.resume_reading()  # who does not read does not see the client leave

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._has_read_body = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request; what follows in the same read belongs to the next one."""
        self._has_ended_one, self._is_in_body = True, False
        self._end_rest()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End an answer; of a body that is still on its way, a bounded rest is thrown away."""
        super().on_response_complete()
        if self._is_in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._rest = self.loop.call_later(REST_TIMEOUT_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser does not accept."""
        self._refuse(self._refusal or InvalidValueError("this is not an HTTP/1.1 request."))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering, self._pipelined_bytes = cycle, 0
        super()._start_asgi_task(cycle, app)

    def _bound_head(self, num_bytes: int) -> None:
        if not self._has_ended_one:
            self._unfinished_bytes += num_bytes
        if self._unfinished_bytes > HEAD_BYTES:
            self._refuse(_too_large())
        elif self._patience is None:
            self._wait_for_head()

    def _bound_rest(self, num_bytes: int) -> None:
        """Bound what comes after an answer and is no head: the rest of a body, or blank lines."""
        if self._is_in_body:
            self._rest_bytes += num_bytes
            if self._rest_bytes > REST_BYTES:
                self.transport.close()
        elif self.timeout_keep_alive_task is None:  # ended by the read
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _bound_framing(self, num_bytes: int) -> None:
        """Bound what comes as a body and is none: lengths of chunks, and headers behind them."""
        self._framing_bytes = 0 if self._has_read_body else self._framing_bytes + num_bytes
        if self._framing_bytes > HEAD_BYTES:
            self._refuse(_too_large())

    def _end_rest(self) -> None:
        self._rest_bytes = 0
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _go_on_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _refuse(self, error: PurveyError) -> None:
        if self._is_in_body and not self.pipeline and not self.cycle.response_started:
            # Its own body is at fault, so this is its answer.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self.transport.write(_raw(error))
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.write(_raw(error))
        # Any other answer under way is cut off rather than followed by another one.
        self.transport.close()

    def _wait_for_head(self) -> None:
        error = ReadTimeoutError(f"the request took longer than {HEAD_TIMEOUT_S:g} s to arrive.")
        self._patience = self.loop.call_later(HEAD_TIMEOUT_S, self._refuse, error)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


def _too_large() -> InvalidValueError:
    return InvalidValueError(
        f"the headers exceed {HEAD_BYTES} bytes, or there are more than {HEADERS}."
    )


def _too_many() -> InvalidValueError:
    return InvalidValueError(
        f"more than {PIPELINED_REQUESTS} requests or {PIPELINED_BYTES} bytes wait behind another."
    )


def _raw(error: PurveyError) -> bytes:
    answer = problem(error)
    answer.headers["connection"] = "close"
    answer.headers["x-request-id"] = new_id("req_")
    status = HTTPStatus(answer.status_code)
    lines = [b"HTTP/1.1 %d %s" % (status.value, status.phrase.encode())]
    lines.extend(name + b": " + value for name, value in answer.raw_headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(answer.body)
