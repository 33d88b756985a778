"""Bytes on a socket: what no HTTP library would send, and every answer that comes back."""

import json
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.matrix.contract import assert_refusal

PATIENCE_S = 20.0
READ_BYTES = 2**16


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer, headers in the order in which they came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """Return a header that must have come exactly once."""
        [value] = [value for key, value in self.headers if key == name]
        return value

    @property
    def request_id(self) -> str:
        """The id that the answer carries."""
        return self.header("x-request-id")

    @property
    def is_last(self) -> bool:
        """Whether the server says that it closes the connection."""
        return ("connection", "close") in self.headers

    @property
    def error(self) -> dict[str, Any]:
        """What a refusal says; its shape is asserted."""
        request = httpx2.Request("GET", "http://localhost/")
        assert_refusal(
            httpx2.Response(
                self.status, headers=list(self.headers), content=self.body, request=request
            )
        )
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


class Wire:
    """A connection to a server.

    Attributes:
        num_sent: Bytes that the kernel has taken.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.num_sent = 0
        self._socket = connection
        self._file = connection.makefile("rb")

    def send(self, *parts: bytes) -> bool:
        """Send all parts; False when the server has closed before they were taken."""
        return self.send_all(parts)

    def send_all(self, parts: Iterable[bytes]) -> bool:
        """Send parts as they come; False when the server has closed before they were taken."""
        for part in parts:
            try:
                self._socket.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                return False
            self.num_sent += len(part)
        return True

    def answer(self, *, has_body: bool = True) -> Answer:
        """Read one answer; `has_body` is False after HEAD."""
        status = int(self._line().split(" ")[1])
        headers = tuple(self._headers())
        if status == 100 or not has_body:
            body = b""
        elif ("transfer-encoding", "chunked") in headers:
            body = b"".join(self._chunks())
        else:
            length = int(dict(headers)["content-length"])
            body = self._file.read(length)
            assert len(body) == length, "cut off"
        return Answer(status=status, headers=headers, body=body)

    def is_closed(self) -> bool:
        """Wait until the server has closed; False when it says something instead."""
        with suppress(ConnectionResetError):
            return self._file.read(1) == b""
        return True

    def trickle(self, byte: bytes, *, until_s: float) -> bool:
        """Send a byte whenever the server says nothing; whether it closes within `until_s`."""
        deadline = time.monotonic() + until_s
        while time.monotonic() < deadline:
            try:
                self._socket.sendall(byte)
                if not self._socket.recv(READ_BYTES):
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
        return False

    def finish(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Leave."""
        self._file.close()
        self._socket.close()

    def _line(self) -> str:
        line = self._file.readline()
        assert line.endswith(b"\r\n"), f"the server closed after {line!r}"
        return line[:-2].decode("latin-1")

    def _headers(self) -> Iterator[tuple[str, str]]:
        while line := self._line():
            name, _, value = line.partition(":")
            yield name.lower(), value.strip()

    def _chunks(self) -> Iterator[bytes]:
        while num_bytes := int(self._line(), 16):
            yield self._file.read(num_bytes)
            assert self._line() == ""
        assert self._line() == ""


@contextmanager
def connected(base_url: str, *, timeout_s: float = PATIENCE_S) -> Iterator[Wire]:
    """Connect until the block ends."""
    host, _, port = base_url.removeprefix("http://").rpartition(":")
    wire = Wire(socket.create_connection((host, int(port)), timeout=timeout_s))
    try:
        yield wire
    finally:
        wire.close()


def head(
    method: str, target: str, *lines: str, key: str = "", kind: str = "application/json"
) -> bytes:
    """Return a request's head for JSON, with further header lines."""
    shown = [f"authorization: Bearer {key}"] if key else []
    typed = [f"content-type: {kind}"] if kind else []
    all_lines = [f"{method} {target} HTTP/1.1", "host: localhost", *shown, *typed, *lines, "", ""]
    return "\r\n".join(all_lines).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """Frame data as one chunk of a body without a length."""
    return b"%x\r\n%s\r\n" % (len(data), data)
