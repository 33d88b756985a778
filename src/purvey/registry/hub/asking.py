"""Questions to the hub, whose refusals say what to change."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus

from purvey.network.outbound import Opened, Outbound
from purvey.registry.fetching import Ask
from purvey.registry.hub.refusals import refusal

THE_HUB = "the hub"
_LISTING_BYTES = 16 * 2**20
_LET_THROUGH = frozenset(
    {
        HTTPStatus.OK,
        HTTPStatus.PARTIAL_CONTENT,
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    }
)


def file_at(outbound: Outbound, url: str, *, what: str, headers: Mapping[str, str]) -> Ask:
    """Return the way to a file.

    Args:
        outbound: The way out.
        url: Where it is.
        what: What a refusal calls it.
        headers: Sent with each request.
    """

    def ask(more: dict[str, str]) -> AbstractAsyncContextManager[Opened]:
        return _asked(outbound, url, what=what, headers={**headers, **more})

    return ask


async def fetch_listing(
    outbound: Outbound, url: str, *, what: str, headers: Mapping[str, str]
) -> bytes:
    """Fetch what the hub says of one revision, no more of it than a listing may have.

    Raises:
        UrlNotAllowedError: The hub is not allowed.
        PurveyError: The hub refuses `what`.
    """
    content = bytearray()
    async with _asked(outbound, url, what=what, headers=headers) as opened:
        async for piece in opened.pieces:
            content += piece[: _LISTING_BYTES + 1 - len(content)]
    return bytes(content)


@asynccontextmanager
async def _asked(
    outbound: Outbound, url: str, *, what: str, headers: Mapping[str, str]
) -> AsyncGenerator[Opened]:
    async with outbound.open(url, param="source", headers=headers) as opened:
        if opened.status not in _LET_THROUGH:
            raise refusal(opened.status, opened.headers, what=what)
        yield opened
