"""One file of the hub onto the disk: resumed where it was cut, kept only if its digest is right.

While it is incomplete a file is called `NAME.part`, so that a name without it is whole and checked.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from pathlib import Path

from purvey.errors import UpstreamNotAllowedError
from purvey.network.outbound import BrokenOffError, Opened, Outbound
from purvey.registry.hub.refusals import refusal
from purvey.registry.hub.snapshot import HubFile
from purvey.store.disk import sync_file
from purvey.store.failures import storage_error

TRIES = 5
"""Connections in a row that may end without bringing a byte."""
_PIECE_BYTES, _LISTING_BYTES = 2**20, 16 * 2**20
Note = Callable[[int], None]
"""Learns how many bytes of the file are there."""


async def fetch_file(
    outbound: Outbound,
    url: str,
    file: HubFile,
    folder: Path,
    *,
    headers: Mapping[str, str],
    note: Note,
) -> None:
    """Fetch a file, or the rest of it, into a folder.

    Args:
        outbound: The way out.
        url: Where it is.
        file: What it must be.
        folder: Where it goes.
        headers: Sent with the request.
        note: Told how far it is.

    Raises:
        UpstreamNotAllowedError: The hub breaks off again and again, or its bytes are others.
        PurveyError: The hub or the disk refuses.
    """
    if (folder / file.name).is_file():
        note(file.num_bytes)
        return
    part = folder / f"{file.name}.part"
    tries_left = TRIES
    while (num_bytes := await asyncio.to_thread(_size, part)) < file.num_bytes:
        note(num_bytes)
        broken = BrokenOffError(f"the hub sends nothing of {file.name!r}.", param="source")
        try:
            await _continue(outbound, url, file, part, num_bytes, headers=headers, note=note)
        except BrokenOffError as error:
            broken = error
        has_grown = await asyncio.to_thread(_size, part) > num_bytes
        tries_left = TRIES if has_grown else tries_left - 1
        if not tries_left:
            raise broken
    await asyncio.to_thread(_accept, part, file, folder / file.name)
    note(file.num_bytes)


async def fetch_listing(
    outbound: Outbound, url: str, *, what: str, headers: Mapping[str, str]
) -> bytes:
    """Fetch what the hub says of one revision, no more of it than a listing may have.

    Raises:
        UrlNotAllowedError: The hub is not allowed.
        PurveyError: The hub refuses `what`.
    """
    content = bytearray()
    async with outbound.open(url, param="source", headers=headers) as opened:
        if opened.status != HTTPStatus.OK:
            raise refusal(opened.status, opened.headers, what=what)
        async for piece in opened.pieces:
            content += piece[: _LISTING_BYTES + 1 - len(content)]
    return bytes(content)


async def _continue(
    outbound: Outbound,
    url: str,
    file: HubFile,
    part: Path,
    num_bytes: int,
    *,
    headers: Mapping[str, str],
    note: Note,
) -> None:
    ranged = {"range": f"bytes={num_bytes}-"} if num_bytes else {}
    async with outbound.open(url, param="source", headers={**headers, **ranged}) as opened:
        if opened.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            await asyncio.to_thread(part.unlink, missing_ok=True)
            raise UpstreamNotAllowedError(f"the hub has less of {file.name!r}.", param="source")
        if opened.status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            raise refusal(opened.status, opened.headers, what=file.name)
        start = _start(opened, file, num_bytes)
        await _write(part, start, file, opened.pieces, note)


def _start(opened: Opened, file: HubFile, num_bytes: int) -> int:
    """Return the position of the first byte that comes: 0 where the hub ignored the range."""
    if opened.status == HTTPStatus.OK:
        return 0
    given = opened.headers.get("content-range", "")
    if not num_bytes or not given.startswith(f"bytes {num_bytes}-"):
        raise UpstreamNotAllowedError(
            f"the hub sends another part of {file.name!r} than was asked for.", param="source"
        )
    return num_bytes


async def _write(
    part: Path, start: int, file: HubFile, pieces: AsyncIterator[bytes], note: Note
) -> None:
    """Write what comes; what was written stays when it breaks off."""
    held = bytearray()
    position = start
    try:
        async for piece in pieces:
            held += piece
            if position + len(held) > file.num_bytes:
                held.clear()
                raise UpstreamNotAllowedError(
                    f"the hub sends more of {file.name!r} than it has announced.", param="source"
                )
            if len(held) >= _PIECE_BYTES:
                position = await asyncio.to_thread(_put, part, position, bytes(held))
                held.clear()
                note(position)
    finally:
        await asyncio.shield(asyncio.to_thread(_put, part, position, bytes(held)))


def _put(part: Path, position: int, content: bytes) -> int:
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("r+b" if part.exists() else "w+b") as written:
            written.truncate(position)
            written.seek(position)
            written.write(content)
    except OSError as error:
        raise storage_error(error) from error
    return position + len(content)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _accept(part: Path, file: HubFile, final: Path) -> None:
    """Give a file its name, or delete it: what has another digest is not what was announced."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()  # an empty one was never asked for
        if not _is_right(part, file):
            part.unlink()
            kind = "SHA-256" if file.sha256 else "git hash"
            raise UpstreamNotAllowedError(
                f"{file.name!r} has another {kind} than the hub announced; it was deleted.",
                param="source",
            )
        sync_file(part)
        part.rename(final)
    except OSError as error:
        raise storage_error(error) from error


def _is_right(part: Path, file: HubFile) -> bool:
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(usedforsecurity=False)
    if not file.sha256:
        digest.update(b"blob %d\0" % file.num_bytes)
    with part.open("rb") as written:
        while chunk := written.read(_PIECE_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == (file.sha256 or file.git_sha1)
