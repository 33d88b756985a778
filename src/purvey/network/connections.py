"""Connections to one server, kept and used again, and never more than are allowed."""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from purvey.errors import UpstreamUnavailableError
from purvey.network.base_urls import BaseUrl
from purvey.network.http1 import Connection

CONNECT_S = 3.0
"""How long a server may take to accept a connection, and to show who it is."""
WAIT_S = 1.0
"""How long a request may wait for a connection where all are in use."""
KEEP_S = 30.0
"""How long an idle connection is kept."""


class Connections:
    """The connections to one server. Lives on one event loop.

    Args:
        url: Where it is.
        most: Connections at one time.
        monotonic: Seconds that only grow.
        tls: Which certificates are believed; the machine's authorities unless given.
    """

    def __init__(
        self,
        url: BaseUrl,
        *,
        most: int,
        monotonic: Callable[[], float],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._url, self._monotonic, self._tls = url, monotonic, tls
        self._most, self._free = most, asyncio.Semaphore(most)
        self._idle: deque[tuple[float, Connection]] = deque()  # the one used last is the last

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[Connection]:
        """Hold a connection; it is kept where its answer has been read to the end.

        Raises:
            UpstreamUnavailableError: All are in use.
            OSError: The server cannot be reached, or is not who it should be.
            TimeoutError: It does not accept.
        """
        await self._take()
        try:
            connection = self._kept() or await self._connected()
            try:
                yield connection
            finally:
                if connection.is_reusable:
                    self._idle.append((self._monotonic() + KEEP_S, connection))
                else:
                    connection.close()
        finally:
            self._free.release()

    async def close(self) -> None:
        """Close those that are idle."""
        while self._idle:
            _, connection = self._idle.pop()
            connection.close()
            await connection.wait_closed()

    async def _take(self) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(WAIT_S):
                await self._free.acquire()
        except TimeoutError:
            raise UpstreamUnavailableError(
                f"all {self._most} connections to it are in use."
            ) from None

    def _kept(self) -> Connection | None:
        now = self._monotonic()
        while self._idle and self._idle[0][0] < now:
            self._idle.popleft()[1].close()
        while self._idle:
            _, connection = self._idle.pop()
            if connection.is_reusable:
                return connection
        return None

    async def _connected(self) -> Connection:
        tls = None
        if self._url.is_tls:
            if self._tls is None:  # the authorities are read from disk
                self._tls = await asyncio.to_thread(ssl.create_default_context)
            tls = self._tls
        async with asyncio.timeout(CONNECT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                Connection,
                self._url.host,
                self._url.port,
                ssl=tls,
                server_hostname=self._url.host if tls else None,
            )
        return connection
