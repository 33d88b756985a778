"""HTTP/1.1 below the application: what cannot be parsed is refused in the one shape of errors.

uvicorn answers such requests in plain text and sets no bounds on a request's head; this sets
them: how many bytes, how many headers, how long it may take to arrive.
"""

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds, and refusals that a client of ours understands."""

    _unfinished_bytes = 0
    _is_in_head = True
    _has_ended_one = False
    _patience: asyncio.TimerHandle | None = None
    _refusal: PurveyError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begin to wait for a first request."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and bound what is not yet a whole head."""
        self._has_ended_one = False
        super().data_received(data)
        if not self._is_in_head or self.transport.is_closing():
            return
        if not self._has_ended_one:
            self._unfinished_bytes += len(data)
        if self._unfinished_bytes > HEAD_BYTES:
            self._refuse(_too_large())
        elif self._patience is None:
            self._wait_for_head()

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._is_in_head, self._unfinished_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header.

        Raises:
            InvalidValueError: There are too many; the parser hands it to `send_400_response`.
        """
        if len(self.headers) >= HEADERS:
            self._refusal = _too_large()
            raise self._refusal
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End the head."""
        self._is_in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request; what follows in the same read belongs to the next one."""
        self._has_ended_one = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser does not accept."""
        self._refuse(self._refusal or InvalidValueError("this is not an HTTP/1.1 request."))

    def _refuse(self, error: PurveyError) -> None:
        # An answer under way is cut off rather than followed by another one.
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_raw(error))
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


def _raw(error: PurveyError) -> bytes:
    answer = problem(error)
    answer.headers["connection"] = "close"
    answer.headers["x-request-id"] = new_id("req_")
    status = HTTPStatus(answer.status_code)
    lines = [b"HTTP/1.1 %d %s" % (status.value, status.phrase.encode())]
    lines.extend(name + b": " + value for name, value in answer.raw_headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(answer.body)
