"""A store that speaks S3: objects by name and folder, each fetched as it was when it was looked up.

Buckets stand in the path, never in the host: what a caller writes does not decide where a request
goes, and no store needs names of its own in the DNS. Access points and directory buckets, which
have hosts of their own, are not read.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError, RequestTooLargeError, UpstreamNotAllowedError
from purvey.network.outbound import Opened
from purvey.network.sites import Site
from purvey.registry.fetching import Ask, Digest, Kind
from purvey.registry.s3.answers import ANSWER_BYTES, Listed, error_code, read_page
from purvey.registry.s3.credentials import read_credentials
from purvey.registry.s3.refusals import refusal
from purvey.registry.s3.signing import Question, signed

_ERROR_BYTES = 2**16
_PAGE_OBJECTS = 1_000  # what stores list at one time, unless told to list fewer
_MD5 = re.compile(r'"([0-9a-f]{32})"')
_PLAIN = frozenset({"", "identity", "aws-chunked"})  # the last one is how it was once sent
_ETAG = re.compile(r'"[!#-~]{1,255}"')
_SUMS: tuple[tuple[Kind, int], ...] = (("sha256", 32), ("sha1", 20), ("crc32", 4))
"""Digests of whole objects that a store may keep, the strongest first, and their bytes."""
_LET_THROUGH = frozenset(
    {
        HTTPStatus.OK,
        HTTPStatus.PARTIAL_CONTENT,
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    }
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """An object as it is now; `etag` changes with it."""

    key: str
    num_bytes: int
    etag: str
    digest: Digest | None


class Store:
    """What one server may see of a store.

    Args:
        site: The way to it.
        region: What signatures name.
        credentials_file: What the server shows; None shows nothing, for open buckets.
        profile: Which part of that file.
        now: Epoch seconds.
    """

    def __init__(
        self,
        site: Site,
        *,
        region: str,
        credentials_file: Path | None,
        profile: str,
        now: Callable[[], float],
    ) -> None:
        self._site, self._region, self._now = site, region, now
        self._credentials_file, self._profile = credentials_file, profile

    async def listed(
        self, bucket: str, folder: str, is_meant: Callable[[str], bool]
    ) -> list[Listed]:
        """Return the objects that are meant of all whose keys begin with `folder`.

        Raises:
            PurveyError: The store refuses.
            RequestTooLargeError: There are more objects than may be listed.
        """
        meant: list[Listed] = []
        more: str | None = None
        for _ in range(LIMITS.listed_objects // _PAGE_OBJECTS):
            query = [("list-type", "2"), ("encoding-type", "url"), ("prefix", folder)]
            query += [("continuation-token", more)] if more is not None else []
            question = Question(method="GET", path=f"/{bucket}", query=query)
            async with self._asked(question, what=f"s3://{bucket}/{folder}") as opened:
                page = read_page(await _taken(opened, ANSWER_BYTES))
            meant += [one for one in page.objects if _is_below(one, folder, is_meant)]
            if page.more is None:
                return meant
            more = page.more
        raise RequestTooLargeError(
            f"more than {LIMITS.listed_objects} objects lie under s3://{bucket}/{folder}: name "
            "a folder further down, or an object.",
            param="source",
        )

    async def look_up(self, bucket: str, key: str) -> Found:
        """Return what an object is.

        Raises:
            PurveyError: The store refuses, or does not say.
        """
        headers = {"x-amz-checksum-mode": "ENABLED"}
        question = Question(method="HEAD", path=f"/{bucket}/{key}", headers=headers)
        async with self._sent(question) as opened:
            status, told = opened.status, opened.headers
        what = f"s3://{bucket}/{key}"
        if status != HTTPStatus.OK:  # without a word: a question that has an answer tells why
            first = Question(method="GET", path=f"/{bucket}/{key}", headers={"range": "bytes=0-0"})
            async with self._asked(first, what=what):
                raise UpstreamNotAllowedError(f"the store answers {status}.", param="source")
        encoding = told.get("content-encoding", "").strip().lower()
        if encoding not in _PLAIN:
            raise InvalidValueError(
                f"{what!r} is stored with the content encoding {encoding[:40]!r}.",
                param="source",
                hint="Store it decoded, without that header.",
            )
        size, etag = told.get("content-length", ""), told.get("etag", "")
        if not (size.isascii() and size.isdecimal() and len(size) < 20 and _ETAG.fullmatch(etag)):
            raise UpstreamNotAllowedError(
                f"the store does not say how large {what!r} is, or which version.", param="source"
            )
        return Found(key=key, num_bytes=int(size), etag=etag, digest=_digest(told))

    def content_of(self, bucket: str, found: Found) -> Ask:
        """Return the way to an object's content, as long as it is the one that was looked up."""

        def ask(more: dict[str, str]) -> AbstractAsyncContextManager[Opened]:
            headers = {"if-match": found.etag, **more}
            question = Question(method="GET", path=f"/{bucket}/{found.key}", headers=headers)
            return self._asked(question, what=f"s3://{bucket}/{found.key}")

        return ask

    async def close(self) -> None:
        """Close idle connections."""
        await self._site.close()

    @asynccontextmanager
    async def _asked(self, question: Question, *, what: str) -> AsyncGenerator[Opened]:
        async with self._sent(question) as opened:
            if opened.status not in _LET_THROUGH:
                code = error_code(await _taken(opened, _ERROR_BYTES))
                raise refusal(opened.status, opened.headers, code, what=what)
            yield opened

    @asynccontextmanager
    async def _sent(self, question: Question) -> AsyncGenerator[Opened]:
        headers = dict(question.headers)
        if self._credentials_file is not None:
            headers = signed(
                question,
                await asyncio.to_thread(read_credentials, self._credentials_file, self._profile),
                authority=self._site.authority,
                region=self._region,
                at=self._now(),
            )
        asked = self._site.ask(question.method, question.target, param="source", headers=headers)
        async with asked as opened:
            yield opened


def _is_below(one: Listed, folder: str, is_meant: Callable[[str], bool]) -> bool:
    """Tell whether an object is meant; one of another folder was not asked for."""
    return one.key.startswith(folder) and is_meant(one.key.removeprefix(folder))


def _digest(headers: Mapping[str, str]) -> Digest | None:
    """Return the strongest digest of the whole object that the store tells.

    Of an object that came in parts it may be one of the parts' digests, which not every store says.
    """
    etag = headers.get("etag", "")
    unsaid = "FULL_OBJECT" if "-" not in etag else "COMPOSITE"
    is_whole = headers.get("x-amz-checksum-type", unsaid) == "FULL_OBJECT"
    for kind, num_bytes in _SUMS:
        try:
            value = base64.b64decode(headers.get(f"x-amz-checksum-{kind}", ""), validate=True)
        except (binascii.Error, ValueError):  # of the digests of parts, with their number
            continue
        if len(value) == num_bytes and is_whole:
            return Digest(kind=kind, value=value.hex())
    plain = _MD5.fullmatch(etag)
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    is_keyed = encryption != "AES256" or any("customer-algorithm" in name for name in headers)
    return Digest(kind="md5", value=plain[1]) if plain and not is_keyed else None


async def _taken(opened: Opened, max_bytes: int) -> bytes:
    content = bytearray()
    async for piece in opened.pieces:
        content += piece
        if len(content) > max_bytes:
            raise UpstreamNotAllowedError(
                "the store says more than an answer may have.", param="source"
            )
    return bytes(content)
