"""The child's end of a link: blocking reads, writes from any thread."""

import socket
import threading
from collections import deque
from typing import Generic, TypeVar

import msgspec

from purvey.contracts.wire import FrameReader, pack

_CHUNK_BYTES = 2**16
M = TypeVar("M")


class Link(Generic[M]):
    """Typed frames over an inherited socket.

    One thread receives; any thread may send, and frames never mix.

    Args:
        fd: File descriptor of the connected stream socket; the link owns it from now on.
        incoming: The union that every received frame must fit.
    """

    def __init__(self, fd: int, incoming: object) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.settimeout(None)  # the parent's end is the asynchronous one
        self._reader: FrameReader[M] = FrameReader(incoming)
        self._ready: deque[M] = deque()
        self._sending = threading.Lock()

    def receive(self) -> M | None:
        """Wait for the next message; None once either end is closed or the parent is gone.

        Raises:
            InternalError: A frame does not fit the union; the link is then useless.
        """
        while not self._ready:
            try:
                chunk = self._socket.recv(_CHUNK_BYTES)
            except OSError:
                return None
            if not chunk:
                return None
            self._ready.extend(self._reader.feed(chunk))
        return self._ready.popleft()

    def send(self, message: msgspec.Struct) -> None:
        """Write one message whole; wait while the parent does not read.

        Raises:
            InternalError: The message exceeds the largest frame.
            OSError: The parent is gone.
        """
        frame = pack(message)
        with self._sending:
            self._socket.sendall(frame)

    def close(self) -> None:
        """Close this end; the parent then reads the end of the stream."""
        self._socket.close()
