"""The one outbound HTTP client of the server.

Each hop: the URL is read strictly and its host must be allowed; the name is resolved once and
*all* of its addresses must be public; the connection goes to one of these very addresses, with the
certificate checked for the name. So neither a second look-up (DNS rebinding) nor a redirect leads
anywhere else. The environment's proxies, cookies and content encodings take no part.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from http import HTTPStatus
from urllib.parse import urljoin

import httpx2

from purvey.contracts.limits import LIMITS
from purvey.errors import (
    CapacityError,
    PurveyError,
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
            try:
                target = self._allowed.read(urljoin(target.url, answer))
                answer = await self._get(target, max_bytes)
            except (UrlNotAllowedError, ValueError) as error:
                why = error.message if isinstance(error, PurveyError) else "it is no address."
                raise UpstreamNotAllowedError(
                    f"{first.host!r} redirects to what is not allowed: {why}"
                ) from None
        if isinstance(answer, bytes):
            return answer
        raise UpstreamNotAllowedError(
            f"{first.host!r} redirects more than {LIMITS.redirects} times."
        )

    async def _get(self, target: Target, max_bytes: int) -> bytes | str:
        """Return the content, or where it is said to be."""
        for endpoint in await self._endpoints(target):
            try:
                return await self._ask(target, endpoint, max_bytes)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
            except (httpx2.HTTPError, OSError) as error:
                raise UpstreamNotAllowedError(
                    f"{target.host!r} broke off its answer ({type(error).__name__})."
                ) from None
        raise UpstreamNotAllowedError(
            f"{target.host!r} cannot be reached, or shows no certificate for that name."
        )

    async def _endpoints(self, target: Target) -> Sequence[Endpoint]:
        try:
            found = await self._resolve(target.host, PORT)
        except (OSError, ValueError):
            raise UpstreamNotAllowedError(f"{target.host!r} has no address.") from None
        if not all(self._may_connect(endpoint.address) for endpoint in found):
            raise UrlNotAllowedError(f"{target.host!r} has an address that is not public.")
        return found

    async def _ask(self, target: Target, endpoint: Endpoint, max_bytes: int) -> bytes | str:
        if self._tls is None:  # the authorities are read from disk
            self._tls = await asyncio.to_thread(httpx2.create_ssl_context, trust_env=False)
        # A transport of its own for each request, without the client around it: no pool, no
        # cookies, no redirects of its own, no proxies.
        async with httpx2.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
            response = await transport.handle_async_request(_request(target, endpoint))
            try:
                return await _taken(response, target, max_bytes)
            finally:
                await response.aclose()


def _request(target: Target, endpoint: Endpoint) -> httpx2.Request:
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
        },
        extensions={"sni_hostname": target.host, "timeout": {"connect": CONNECT_S}},
    )


async def _taken(response: httpx2.Response, target: Target, max_bytes: int) -> bytes | str:
    if response.status_code in _REDIRECTS:
        if not (location := response.headers.get("location")):
            raise UpstreamNotAllowedError(f"{target.host!r} redirects to nowhere.")
        return str(location)
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
