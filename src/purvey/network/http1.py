"""HTTP/1.1 as a client: one connection, one request at a time, its answer piece by piece.

Written for the path of every request that is passed on: a quarter of what a general client costs.
The parsing is `httptools`'; what is here bounds it and waits.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import cast

import httptools

HEAD_BYTES = 64 * 2**10
"""An answer's headers; of a head that is not complete, all bytes."""
HELD_BYTES = 256 * 2**10
"""Content that is held for a slow reader; then the connection is not read."""
_FRAME_BYTES = 4  # colon, blank and the end of the line


class HttpError(Exception):
    """What came is not HTTP/1.1, or has not come whole. The connection is of no more use."""


class DroppedError(HttpError):
    """The other side closed the connection before anything of an answer came."""


class Connection(asyncio.Protocol):
    """One connection. Made by the loop's `create_connection`.

    Invariant: between requests nothing is held, and whatever comes then ends the connection.

    Attributes:
        status: Of the answer.
        headers: Of the answer, by their names in lower case; of several the last.
        num_held: Bytes of content that have come and wait to be taken.
    """

    def __init__(self) -> None:
        self.status, self.headers = 0, dict[str, str]()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: deque[bytes] = deque()
        self.num_held = self._num_head = self._num_read = 0
        self._is_asked = self._has_head = self._is_over = self._is_kept = False
        self._is_closed = self._is_paused = False
        self._failure: HttpError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._lost: asyncio.Future[None] | None = None

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent."""
        is_idle = not self._is_asked or (self._is_over and not self._pieces)
        return is_idle and not self._is_closed and (self._is_kept or not self._is_asked)

    async def send(self, request: bytes) -> None:
        """Send a whole request, and wait until most of it is on its way.

        Raises:
            DroppedError: The other side closes the connection meanwhile.
        """
        self._parser = httptools.HttpResponseParser(self)
        self.status, self.headers, self._num_head, self._num_read = 0, {}, 0, 0
        self._has_head = self._is_over = self._is_kept = False
        self._is_asked = True
        if self._transport is None or self._is_closed:
            raise DroppedError
        self._transport.write(request)
        if self._writer is not None:
            await self._writer

    async def head(self, *, silence_s: float) -> None:
        """Wait until `status` and `headers` are there.

        Raises:
            DroppedError: The connection ends before anything came.
            HttpError: It ends within the head, or that is no head.
            TimeoutError: Nothing more comes.
        """
        while not self._has_head:
            await self._news(silence_s)

    async def pieces(self, *, silence_s: float) -> AsyncGenerator[bytes]:
        """Yield the content as it comes.

        Raises:
            HttpError: It ends too early, or is not coded as its head says.
            TimeoutError: Nothing more comes.
        """
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self.num_held -= len(piece)
                if self._is_over and not self._pieces:
                    self._go_on_reading()  # the connection may be used again, or be closed
                yield piece
            if self._is_over:
                return
            self._go_on_reading()
            await self._news(silence_s)

    def close(self) -> None:
        """End the connection at once."""
        self._is_closed = True
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the loop holds nothing of it."""
        if self._lost is not None:
            await self._lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; an answer without a length ends so, any other one is broken off."""
        self._is_closed = True
        is_by_end = not {"content-length", "transfer-encoding"} & self.headers.keys()
        if self._has_head and is_by_end and exc is None:
            self._is_over = True
        elif not self._is_over:
            self._fail(HttpError("it ends too early") if self._num_read else DroppedError())
        self._wake()
        self.resume_writing()
        if self._lost is not None:
            self._lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if not self._is_asked or self._is_over:
            self.close()  # nobody asked for it
            return
        self._num_read += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(HttpError("it is not HTTP/1.1"))
        if not self._has_head and self._num_read > HEAD_BYTES:
            self._fail(HttpError("its head is too long"))

    def pause_writing(self) -> None:
        """Let who sends wait."""
        self._writer = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let who sends go on."""
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)

    def on_message_begin(self) -> None:
        """Begin an answer; a second one was not asked for."""
        if self._is_over:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind the content are not."""
        if not self._has_head:
            self._num_head += len(name) + len(value) + _FRAME_BYTES
            if self._num_head > HEAD_BYTES:
                self._fail(HttpError("its head is too long"))
                return
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """End the head, unless it only says that another one follows."""
        if self._is_over:
            return
        self.status = self._parser.get_status_code()
        if self.status >= HTTPStatus.OK:
            self._has_head = True
            self._wake()

    def on_body(self, body: bytes) -> None:
        """Take a piece of content."""
        if self._is_over:
            return
        self._pieces.append(body)
        self.num_held += len(body)
        if self.num_held > HELD_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        """End the answer, unless another head follows."""
        if not self._has_head:
            self.headers.clear()
            return
        if not self._is_over:
            self._is_over, self._is_kept = True, self._parser.should_keep_alive()
            self._wake()

    def _go_on_reading(self) -> None:
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()

    async def _news(self, silence_s: float) -> None:
        self._require_whole()
        self._reader = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(silence_s):
            await self._reader
        if not self._pieces:
            self._require_whole()

    def _require_whole(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _fail(self, error: HttpError) -> None:
        self._failure = self._failure or error
        self.close()
        self._wake()
