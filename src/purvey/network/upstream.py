"""Other servers that speak OpenAI's API, by the names that the operator's settings give them.

Requests go to the operator's address and nowhere else: redirects are not followed, and the
environment's proxies, cookies and content encodings take no part. What is sent and what comes back
is not looked at here.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field

from purvey.contracts.limits import LIMITS
from purvey.errors import (
    CapacityError,
    UpstreamFailedError,
    UpstreamMisconfiguredError,
)
from purvey.network.base_urls import read_base_url
from purvey.network.breaker import Breaker, State
from purvey.network.connections import Connections
from purvey.network.http1 import Connection, DroppedError, HttpError
from purvey.telemetry import metrics

logger = logging.getLogger(__name__)

WRITE_S = 30.0
"""How long an upstream may leave a request unread."""


@dataclass(frozen=True, kw_only=True)
class UpstreamConfig:
    """One upstream as the operator names it.

    Args:
        name: What models name it by.
        url: What stands before `/chat/completions`.
        key: What it is shown; None shows nothing. Never logged, never sent anywhere else.
        silence_s: How long it may say nothing, before its answer and within it.
        max_connections: Connections to it; more requests wait a little, and are then refused.
    """

    name: str
    url: str
    key: str | None = field(default=None, repr=False)
    silence_s: float = 600.0
    max_connections: int = 256


@dataclass(frozen=True, kw_only=True)
class UpstreamAnswer:
    """The head of an answer, and its content as it comes.

    Args:
        status: As the upstream says it.
        content_type: Without parameters, in lower case.
        retry_after: The header of this name, as it came.
        pieces: Raises `UpstreamFailedError` where the content ends too early, or stops coming.
    """

    status: int
    content_type: str
    retry_after: str | None
    pieces: AsyncGenerator[bytes]


class Upstream:
    """One of them. Lives on one event loop.

    Args:
        config: Who it is.
        monotonic: Seconds that only grow.
        tls: Which certificates are believed; the machine's authorities unless given.

    Attributes:
        num_running: Requests that it has not answered in full.

    Raises:
        SettingError: Its URL is not one.
    """

    def __init__(
        self,
        config: UpstreamConfig,
        *,
        monotonic: Callable[[], float],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name, self.num_running = config.name, 0
        self._config, self._tls = config, tls
        url = read_base_url(config.url, name=config.name)
        self._connections = Connections(
            url, most=config.max_connections, monotonic=monotonic, tls=tls
        )
        self._breaker = Breaker(config.name, monotonic=monotonic)
        self._path = url.path
        key = "" if config.key is None else f"authorization: Bearer {config.key}\r\n"
        self._headers = (
            f" HTTP/1.1\r\nhost: {url.authority}\r\nuser-agent: purvey\r\n"
            "accept-encoding: identity\r\ncontent-type: application/json\r\n"
            f"{key}content-length: "
        )

    @property
    def state(self) -> State:
        """Whether it is asked: `closed` is yes, `open` no, `half-open` once."""
        return self._breaker.state

    def hides(self, text: str) -> bool:
        """Tell whether a text may be shown: it does not hold the key."""
        return self._config.key is None or self._config.key not in text

    @asynccontextmanager
    async def ask(self, path: str, body: bytes) -> AsyncGenerator[UpstreamAnswer]:
        """Send a JSON body; leaving the block before the answer ends cuts the connection.

        A connection that is dropped before anything of an answer came is tried once more.

        Args:
            path: What follows the base URL, without a slash before it.
            body: JSON.

        Raises:
            UpstreamFailedError: It cannot be reached, or says nothing for too long.
            UpstreamUnavailableError: It has failed too often, or all its connections are in use.
            CapacityError: As many of its requests run and wait as may.
        """
        if self.num_running >= LIMITS.queued_requests:
            raise CapacityError(f"{self.num_running} requests to {self.name!r} are under way.")
        self.num_running += 1
        try:
            async with AsyncExitStack() as held:
                connection = await self._answered(held, path, body)
                answer = self._shown(connection)
                async with aclosing(answer.pieces):
                    yield answer
        finally:
            self.num_running -= 1

    async def close(self) -> None:
        """Close its idle connections."""
        await self._connections.close()

    async def _answered(self, held: AsyncExitStack, path: str, body: bytes) -> Connection:
        with self._breaker.trial():
            try:
                return await self._asked(held, path, body)
            except DroppedError:
                pass
            await held.aclose()
            try:
                return await self._asked(held, path, body)
            except DroppedError as error:
                raise self._failed("closed the connection without an answer", error) from None

    async def _asked(self, held: AsyncExitStack, path: str, body: bytes) -> Connection:
        try:
            connection = await held.enter_async_context(self._connections.one())
        except (OSError, ValueError) as error:  # no address, no answer, or no name at all
            raise self._failed("cannot be reached", error) from None
        request = f"POST {self._path}/{path}{self._headers}{len(body)}\r\n\r\n".encode() + body
        try:
            async with asyncio.timeout(WRITE_S):
                await connection.send(request)
            await connection.head(silence_s=self._config.silence_s)
        except TimeoutError as error:
            raise self._failed(self._silence(), error) from None
        except DroppedError:
            raise
        except HttpError as error:
            raise self._failed(f"does not answer as it should: {error}", error) from None
        return connection

    def _shown(self, connection: Connection) -> UpstreamAnswer:
        headers = connection.headers
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise UpstreamMisconfiguredError(f"the upstream {self.name!r} encodes its answer.")
        return UpstreamAnswer(
            status=connection.status,
            content_type=headers.get("content-type", "").partition(";")[0].strip().lower(),
            retry_after=headers.get("retry-after"),
            pieces=self._pieces(connection),
        )

    async def _pieces(self, connection: Connection) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(connection.pieces(silence_s=self._config.silence_s)) as pieces:
                async for piece in pieces:
                    yield piece
        except TimeoutError as error:
            raise self._failed(self._silence(), error) from None
        except HttpError as error:
            raise self._failed("broke off its answer", error) from None

    def _silence(self) -> str:
        return f"said nothing for {self._config.silence_s:g} s"

    def _failed(self, how: str, error: Exception) -> UpstreamFailedError:
        metrics.UPSTREAM_FAILURES.labels(self.name).inc()
        logger.warning("upstream.failed", extra={"path": self.name, "reason": type(error).__name__})
        return UpstreamFailedError(f"the upstream {self.name!r} {how}.")


class Upstreams:
    """Every upstream of one server.

    Args:
        configs: Who they are.
        monotonic: Seconds that only grow.
        tls: As of `Upstream`.

    Raises:
        SettingError: A URL is not one.
    """

    def __init__(
        self,
        configs: Iterable[UpstreamConfig] = (),
        *,
        monotonic: Callable[[], float],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._named = {c.name: Upstream(c, monotonic=monotonic, tls=tls) for c in configs}

    @property
    def names(self) -> list[str]:
        """What they are called."""
        return sorted(self._named)

    def get(self, name: str) -> Upstream:
        """Return one.

        Raises:
            UpstreamMisconfiguredError: The settings do not name it, or no more.
        """
        found = self._named.get(name)
        if found is None:
            raise UpstreamMisconfiguredError(f"the settings name no upstream {name!r}.")
        return found

    async def close(self) -> None:
        """Close all connections; no request is under way any more."""
        for upstream in self._named.values():
            await upstream.close()
