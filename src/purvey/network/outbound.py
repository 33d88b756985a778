"""The one outbound HTTP client of the server.

Each hop: the URL is read strictly and its host must be allowed; the name is resolved once and
*all* of its addresses must be public; the connection goes to one of these very addresses, with the
certificate checked for the name. So neither a second look-up (DNS rebinding) nor a redirect leads
anywhere else. The environment's proxies, cookies and content encodings take no part.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urljoin

import httpx2

from purvey.contracts.limits import LIMITS
from purvey.errors import (
    CapacityError,
    RequestTooLargeError,
    UpstreamNotAllowedError,
    UrlNotAllowedError,
)
from purvey.network.addresses import Address, is_public
from purvey.network.resolving import Endpoint, Resolver, resolve
from purvey.network.urls import AllowedHosts, Target

logger = logging.getLogger(__name__)

PORT = 443
CONNECT_S = 3.0
"""How long one address may take to accept; then the name's next one is tried."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class BrokenOffError(UpstreamNotAllowedError):
    """An allowed host began to answer and did not end; asked again, it may."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An answer whose content is still to be read.

    Args:
        status: As the last host says it.
        headers: Lower-case name to value.
        pieces: The content as it comes; raises `BrokenOffError` when that ends too early.
    """

    status: int
    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]


class Outbound:
    """Fetches what allowed hosts serve; with no host allowed, nothing.

    Invariant: `_num_running` counts the fetches under way.

    Args:
        hosts: Names, or `*.` and a suffix.
        resolver: Finds the addresses of a name.
        may_connect: Which addresses are connected to.
        tls: Which certificates are believed; the machine's authorities unless given.
        deadline_s: Longest time of one fetch, redirects included.

    Raises:
        SettingError: A host is neither a name nor a suffix.
    """

    def __init__(
        self,
        hosts: Sequence[str] = (),
        *,
        resolver: Resolver = resolve,
        may_connect: Callable[[Address], bool] = is_public,
        tls: ssl.SSLContext | None = None,
        deadline_s: float = LIMITS.fetch_s,
    ) -> None:
        self._allowed = AllowedHosts(hosts)
        self._resolve, self._may_connect, self._tls = resolver, may_connect, tls
        self._deadline_s = deadline_s
        self._num_running = 0

    async def fetch(self, url: str, *, param: str, max_bytes: int) -> bytes:
        """Return what a URL serves.

        Args:
            url: As the caller gave it.
            param: The field, for errors.
            max_bytes: More is refused before it is held.

        Raises:
            UrlNotAllowedError: The URL, its host, or an address of the host is not allowed; no
                connection was made.
            UpstreamNotAllowedError: The host cannot be reached, answers too slowly or with
                anything but the content, or redirects to what is not allowed.
            RequestTooLargeError: It serves more than `max_bytes`.
            CapacityError: As much is being fetched as may be.
        """
        try:
            target = self._allowed.read(url)
            content = await self._bounded(target, max_bytes)
        except (UrlNotAllowedError, UpstreamNotAllowedError, RequestTooLargeError) as error:
            logger.info("outbound.refused", extra={"code": error.code, "param": param})
            raise type(error)(error.message, param=param, hint=error.hint) from None
        logger.debug("outbound.fetched", extra={"num_bytes": len(content), "param": param})
        return content

    @asynccontextmanager
    async def open(
        self, url: str, *, param: str, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Opened]:
        """Ask for a URL whose content is read piece by piece, whatever its status.

        The time between two pieces is bounded, that of the whole is not: who reads bounds the
        bytes. No other host than the first is shown the header `authorization`.

        Args:
            url: As `fetch`.
            param: The field, for errors.
            headers: Sent besides ours, in lower case.

        Raises:
            UrlNotAllowedError: As `fetch`.
            UpstreamNotAllowedError: The host cannot be reached, or redirects to what is not
                allowed.
            BrokenOffError: It was reached and left.
        """
        async with AsyncExitStack() as stack:
            try:
                first = self._allowed.read(url)
                target, response = await self._reached(stack, first, headers or {})
            except (UrlNotAllowedError, UpstreamNotAllowedError) as error:
                logger.info("outbound.refused", extra={"code": error.code, "param": param})
                raise type(error)(error.message, param=param, hint=error.hint) from None
            yield Opened(
                status=response.status_code,
                headers=dict(response.headers),
                pieces=_pieces(response, target, param),
            )

    async def _reached(
        self, stack: AsyncExitStack, first: Target, headers: Mapping[str, str]
    ) -> tuple[Target, httpx2.Response]:
        target = first
        for _ in range(LIMITS.redirects + 1):
            is_first = target.host == first.host
            shown = {n: v for n, v in headers.items() if is_first or n != "authorization"}
            response = await self._connected(stack, target, shown)
            if response.status_code not in _REDIRECTS:
                return target, response
            target = self._redirected(first, target, _location(response, target))
        raise _too_many(first)

    async def _connected(
        self, stack: AsyncExitStack, target: Target, headers: Mapping[str, str]
    ) -> httpx2.Response:
        for endpoint in await self._endpoints(target):
            try:
                return await stack.enter_async_context(self._asked(target, endpoint, headers))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
            except (httpx2.HTTPError, OSError) as error:
                raise _broken(target, error) from None
        raise _unreachable(target)

    async def _bounded(self, target: Target, max_bytes: int) -> bytes:
        if self._num_running >= LIMITS.running_fetches:
            raise CapacityError(
                f"{self._num_running} addresses are being fetched.",
                hint="Try again in a moment, or upload the file and give its id.",
            )
        self._num_running += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._follow(target, max_bytes)
        except TimeoutError:
            raise UpstreamNotAllowedError(
                f"{target.host!r} did not answer in full within {self._deadline_s:g} s."
            ) from None
        finally:
            self._num_running -= 1

    async def _follow(self, first: Target, max_bytes: int) -> bytes:
        answer = await self._get(first, max_bytes)
        target = first
        for _ in range(LIMITS.redirects):
            if isinstance(answer, bytes):
                return answer
            target = self._redirected(first, target, answer)
            try:
                answer = await self._get(target, max_bytes)
            except UrlNotAllowedError as error:
                raise _leads_astray(first, error.message) from None
        if isinstance(answer, bytes):
            return answer
        raise _too_many(first)

    def _redirected(self, first: Target, target: Target, location: str) -> Target:
        try:
            return self._allowed.read(urljoin(target.url, location))
        except UrlNotAllowedError as error:
            raise _leads_astray(first, error.message, hint=error.hint) from None
        except ValueError:
            raise _leads_astray(first, "it is no address.") from None

    async def _get(self, target: Target, max_bytes: int) -> bytes | str:
        """Return the content, or where it is said to be."""
        for endpoint in await self._endpoints(target):
            try:
                return await self._ask(target, endpoint, max_bytes)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
            except (httpx2.HTTPError, OSError) as error:
                raise _broken(target, error) from None
        raise _unreachable(target)

    async def _endpoints(self, target: Target) -> Sequence[Endpoint]:
        try:
            found = await self._resolve(target.host, PORT)
        except (OSError, ValueError):
            raise UpstreamNotAllowedError(f"{target.host!r} has no address.") from None
        if not all(self._may_connect(endpoint.address) for endpoint in found):
            raise UrlNotAllowedError(f"{target.host!r} has an address that is not public.")
        return found

    async def _ask(self, target: Target, endpoint: Endpoint, max_bytes: int) -> bytes | str:
        async with self._asked(target, endpoint, {}) as response:
            return await _taken(response, target, max_bytes)

    @asynccontextmanager
    async def _asked(
        self, target: Target, endpoint: Endpoint, headers: Mapping[str, str]
    ) -> AsyncGenerator[httpx2.Response]:
        if self._tls is None:  # the authorities are read from disk
            self._tls = await asyncio.to_thread(httpx2.create_ssl_context, trust_env=False)
        # A transport of its own for each request, without the client around it: no pool, no
        # cookies, no redirects of its own, no proxies.
        async with httpx2.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
            request = _request(target, endpoint, headers)
            response = await transport.handle_async_request(request)
            try:
                yield response
            finally:
                await response.aclose()


def _request(target: Target, endpoint: Endpoint, headers: Mapping[str, str]) -> httpx2.Request:
    address = f"[{endpoint.address}]" if endpoint.address.version == 6 else str(endpoint.address)
    return httpx2.Request(
        "GET",
        f"https://{address}:{endpoint.port}{target.path}",
        headers={
            "host": target.host,
            "accept": "*/*",
            "accept-encoding": "identity",
            "connection": "close",
            "user-agent": "purvey",
            **headers,
        },
        extensions={
            "sni_hostname": target.host,
            "timeout": {"connect": CONNECT_S, "read": LIMITS.fetch_s, "write": LIMITS.fetch_s},
        },
    )


async def _taken(response: httpx2.Response, target: Target, max_bytes: int) -> bytes | str:
    if response.status_code in _REDIRECTS:
        return _location(response, target)
    if response.status_code != HTTPStatus.OK:
        raise UpstreamNotAllowedError(f"{target.host!r} answers {response.status_code}.")
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UpstreamNotAllowedError(f"{target.host!r} encodes its answer, unasked.")
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > max_bytes:
            raise RequestTooLargeError(f"what {target.host!r} serves exceeds {max_bytes} bytes.")
    return bytes(content)


async def _pieces(response: httpx2.Response, target: Target, param: str) -> AsyncIterator[bytes]:
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UpstreamNotAllowedError(f"{target.host!r} encodes its answer, unasked.", param=param)
    try:
        async for piece in response.aiter_raw():
            yield piece
    except (httpx2.HTTPError, OSError) as error:
        raise _broken(target, error, param=param) from None


def _location(response: httpx2.Response, target: Target) -> str:
    if not (location := response.headers.get("location")):
        raise UpstreamNotAllowedError(f"{target.host!r} redirects to nowhere.")
    return str(location)


def _broken(target: Target, error: Exception, *, param: str | None = None) -> BrokenOffError:
    return BrokenOffError(
        f"{target.host!r} broke off its answer ({type(error).__name__}).", param=param
    )


def _unreachable(target: Target) -> UpstreamNotAllowedError:
    return UpstreamNotAllowedError(
        f"{target.host!r} cannot be reached, or shows no certificate for that name."
    )


def _leads_astray(first: Target, why: str, *, hint: str | None = None) -> UpstreamNotAllowedError:
    return UpstreamNotAllowedError(
        f"{first.host!r} redirects to what is not allowed: {why}", hint=hint
    )


def _too_many(first: Target) -> UpstreamNotAllowedError:
    return UpstreamNotAllowedError(f"{first.host!r} redirects more than {LIMITS.redirects} times.")
