"""An upstream that answers as it is told to: over a real socket, on loopback."""

import json
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from purvey.testing.https_double import Listener

PATIENCE_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Script = Callable[[Heard], Iterable[bytes]]
"""From a request to the raw bytes of its answer, piece by piece; ends by closing unless told."""


def plain(
    status: int, body: bytes = b"", *, kind: str = "application/json", **headers: str
) -> bytes:
    """Return a whole answer after which the connection stays."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", f"content-type: {kind}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def refusal(status: int, message: str = "no", **headers: str) -> bytes:
    """Return a refusal in OpenAI's shape."""
    error = {"message": message, "type": "x", "param": "temperature", "code": None}
    return plain(status, json.dumps({"error": error}).encode(), **headers)


def stream_head(kind: str = "text/event-stream") -> bytes:
    """Return the head of an answer that ends where the connection does."""
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n".encode()


def chunk(text: str | None = None, **more: object) -> bytes:
    """Return one event of a chat."""
    delta = {} if text is None else {"content": text}
    choices = [{"index": 0, "delta": delta, "finish_reason": None if text else "stop"}]
    value = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "inner"}
    return b"data: " + json.dumps(value | {"choices": choices} | more).encode() + b"\n\n"


def completion(text: str = "hi", **more: object) -> bytes:
    """Return a whole chat answer."""
    message = {"role": "assistant", "content": text}
    value = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "inner",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    return plain(200, json.dumps(value | more).encode())


class UpstreamDouble(Listener):
    """Answers each request by its script, on connections that may be used again.

    Attributes:
        script: May be changed at any time.
        heard: Requests, in order.
        num_gone: Connections that the other side closed while they were answered.
    """

    def __init__(self, script: Script | None = None) -> None:
        super().__init__()
        self.script: Script = script or (lambda _: [completion()])
        self.heard: list[Heard] = []
        self.num_gone = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(0.05)
        with connection:
            try:
                while not self.is_over and (heard := self._hear(connection)):
                    self.heard.append(heard)
                    connection.settimeout(PATIENCE_S)  # of a client that does not read
                    is_kept = False
                    for piece in self.script(heard):
                        connection.sendall(piece)
                        is_kept = b"content-length" in piece[:200]
                    if not is_kept:
                        return
                    connection.settimeout(0.05)
            except OSError:
                self.num_gone += 1

    def _hear(self, connection: socket.socket) -> Heard | None:
        content = b""
        while b"\r\n\r\n" not in content:
            if not (more := self._read(connection)):
                return None
            content += more
        head, _, body = content.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            if not (more := self._read(connection)):
                return None
            body += more
        method, path, _ = first.split(" ")
        return Heard(method=method, path=path, headers=headers, body=body)

    def _read(self, connection: socket.socket) -> bytes:
        while not self.is_over:
            try:
                return connection.recv(65_536)
            except TimeoutError:
                continue
        return b""
