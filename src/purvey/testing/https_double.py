"""An HTTPS server of the outside world, on this machine, that answers as it is told to."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from purvey.testing.certificate import Certificate

Answer = Callable[[str], Iterable[bytes]]
"""From the path of a request to the raw bytes of its answer, piece by piece."""
_MAX_HEAD_BYTES = 65_536
_PATIENCE_S = 20.0


def answer_of(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Return a whole answer."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Listener:
    """A listening socket on a free port of loopback that counts who comes, and lets nobody in.

    Use as `with Listener() as canary`.

    Attributes:
        num_connections: Connections that were accepted so far.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family)
        self._socket.settimeout(0.02)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._serving: list[threading.Thread] = []
        self.num_connections = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        found: int = self._socket.getsockname()[1]
        return found

    def __enter__(self) -> Self:
        """Start to accept."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Accept nothing more; return when every connection is closed."""
        self._is_over.set()
        for thread in (self._thread, *self._serving):
            thread.join()
        self._socket.close()

    @property
    def is_over(self) -> bool:
        """Whether the double is being closed."""
        return self._is_over.is_set()

    def _accept(self) -> None:
        while not self._is_over.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            self.num_connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._serving.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.close()


class HttpsDouble(Listener):
    """A server that answers each connection once.

    Args:
        certificate: What it shows.
        answer: What it says.

    Attributes:
        certificate: What clients must believe to talk to it.
        heads: The heads of the requests, in order.
    """

    def __init__(
        self, certificate: Certificate, answer: Answer, *, host: str = "127.0.0.1"
    ) -> None:
        super().__init__(host)
        self.certificate = certificate
        self._context, self._answer = certificate.server_context(), answer
        self.heads: list[str] = []

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(_PATIENCE_S)
        try:
            with self._context.wrap_socket(connection, server_side=True) as tls:
                self._converse(tls)
        except OSError:  # the client thinks nothing of us, and says so by leaving
            connection.close()

    def _converse(self, tls: ssl.SSLSocket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD_BYTES:
            if not (chunk := tls.recv(4_096)):
                return
            head += chunk
        self.heads.append(head.decode("latin-1"))
        for piece in self._answer(head.split(b" ")[1].decode("latin-1")):
            if self.is_over:
                return
            tls.sendall(piece)
