"""Servers that the operator names beside those that compute: a store of objects, a tracker of runs.

As with an upstream, the setting is the permission, loopback and private addresses included. What
callers ask for decides neither host nor port, no redirect is followed, no encoding is asked for or
undone, and the environment's proxies and cookies take no part.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from purvey.contracts.limits import LIMITS
from purvey.errors import UpstreamNotAllowedError
from purvey.network.base_urls import Kind, read_base_url
from purvey.network.connections import Connections
from purvey.network.http1 import Connection, DroppedError, HttpError
from purvey.network.outbound import BrokenOffError, Opened

logger = logging.getLogger(__name__)

_BODILESS = frozenset({"GET", "HEAD"})
_TRIES = 2
"""A connection that was kept may have been closed meanwhile, which a fresh one is not."""


class Site:
    """One of them. Lives on one event loop.

    Args:
        url: Where it is; what its routes begin with included.
        name: What messages and logs call it, and the field that is at fault where it fails.
        kind: What it is, for errors of its URL.
        most: Connections at one time; more requests wait a little, and are then refused.
        monotonic: Seconds that only grow.
        silence_s: How long it may say nothing, before its answer and within it.
        tls: Which certificates are believed; the machine's authorities unless given.

    Attributes:
        authority: Host and port as they were spelt; of its URL, what requests are sent to.
        path: What its routes begin with.

    Raises:
        SettingError: Its URL is not one.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        kind: Kind,
        most: int,
        monotonic: Callable[[], float],
        silence_s: float = LIMITS.fetch_s,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        found = read_base_url(url, name=kind.setting, kind=kind)
        self.name, self.authority, self.path = name, found.authority, found.path
        self._silence_s = silence_s
        self._connections = Connections(found, most=most, monotonic=monotonic, tls=tls)

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        target: str,
        *,
        param: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> AsyncGenerator[Opened]:
        """Send a request, twice where nothing came of it; its content is read piece by piece.

        Leaving the block before the answer ends cuts the connection. Who reads bounds the bytes.

        Args:
            method: `GET`, `HEAD`, `POST` or another one that may be repeated.
            target: Path, beginning with `/` behind that of the base URL, and query, both escaped.
            param: The field, for errors.
            headers: Sent besides ours, in lower case.
            body: What is sent.

        Raises:
            UpstreamNotAllowedError: It cannot be reached, or does not speak HTTP.
            BrokenOffError: It was reached and left, or says nothing more.
            UpstreamUnavailableError: All connections to it are in use.
        """
        request = self._head(method, target, headers or {}, len(body)) + body
        async with AsyncExitStack() as held:
            connection = await self._answered(held, request, param)
            shown = dict(connection.headers)
            async with aclosing(self._pieces(connection, param)) as pieces:
                yield Opened(status=connection.status, headers=shown, pieces=pieces)

    async def close(self) -> None:
        """Close its idle connections."""
        await self._connections.close()

    def _head(self, method: str, target: str, headers: Mapping[str, str], num_bytes: int) -> bytes:
        lines = [
            f"{method} {self.path}{target} HTTP/1.1",
            f"host: {self.authority}",
            "user-agent: purvey",
            "accept-encoding: identity",
            *(f"{name}: {value}" for name, value in headers.items()),
            *([f"content-length: {num_bytes}"] if num_bytes or method not in _BODILESS else []),
        ]
        assert not any("\r" in line or "\n" in line for line in lines), "split"  # noqa: S101
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def _answered(self, held: AsyncExitStack, request: bytes, param: str) -> Connection:
        for _ in range(_TRIES):
            try:
                return await self._asked(held, request, param)
            except DroppedError:
                await held.aclose()
        raise self._broken("closes the connection without an answer", param)

    async def _asked(self, held: AsyncExitStack, request: bytes, param: str) -> Connection:
        try:
            connection = await held.enter_async_context(self._connections.one())
        except (OSError, ValueError) as error:  # no address, no answer, or another's certificate
            raise self._failed("cannot be reached", param, error) from None
        try:
            async with asyncio.timeout(self._silence_s):
                await connection.send(request)
            await connection.head(silence_s=self._silence_s)
        except TimeoutError as error:
            raise self._broken(f"says nothing for {self._silence_s:g} s", param, error) from None
        except DroppedError:
            raise
        except HttpError as error:
            raise self._failed(f"does not answer as it should: {error}", param, error) from None
        return connection

    async def _pieces(self, connection: Connection, param: str) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(connection.pieces(silence_s=self._silence_s)) as pieces:
                async for piece in pieces:
                    yield piece
        except TimeoutError as error:
            raise self._broken(f"says nothing for {self._silence_s:g} s", param, error) from None
        except HttpError as error:
            raise self._broken("broke off its answer", param, error) from None

    def _failed(
        self, how: str, param: str, error: Exception | None = None
    ) -> UpstreamNotAllowedError:
        self._log(error)
        return UpstreamNotAllowedError(f"{self.name} {how}.", param=param)

    def _broken(self, how: str, param: str, error: Exception | None = None) -> BrokenOffError:
        self._log(error)
        return BrokenOffError(f"{self.name} {how}.", param=param)

    def _log(self, error: Exception | None) -> None:
        reason = type(error).__name__ if error else ""
        logger.info("site.failed", extra={"path": self.name, "reason": reason})
