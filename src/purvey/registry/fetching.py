"""One file of another server onto the disk: resumed where it was cut, kept if its digest is right.

While it is incomplete a file is called `NAME.part`, so that a name without it is whole and checked.
"""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Literal, Protocol

from purvey.errors import UpstreamNotAllowedError
from purvey.network.outbound import BrokenOffError, Opened
from purvey.store.disk import sync_file
from purvey.store.failures import storage_error

TRIES = 5
"""Connections in a row that may end without bringing a byte."""
_PIECE_BYTES = 2**20
Kind = Literal["sha256", "sha1", "md5", "crc32", "git"]
Note = Callable[[int], None]
"""Learns how many bytes of the file are there."""
Ask = Callable[[dict[str, str]], AbstractAsyncContextManager[Opened]]
"""Asks for the file, with these headers besides its own; raises what a refusal means.

Of the statuses that are none it lets 200, 206 and 416 through.
"""


@dataclass(frozen=True, kw_only=True)
class Digest:
    """What the content of a file must come to, in hex.

    `git` is SHA-1 over `blob SIZE NUL CONTENT`.
    """

    kind: Kind
    value: str

    @property
    def title(self) -> str:
        """What a person calls it."""
        return _TITLES[self.kind]


_TITLES = {
    "sha256": "SHA-256",
    "sha1": "SHA-1",
    "md5": "MD5",
    "crc32": "CRC-32",
    "git": "git hash",
}


@dataclass(frozen=True, kw_only=True)
class Announced:
    """What a file is said to be; without a digest its size alone is checked."""

    name: str
    num_bytes: int
    digest: Digest | None


async def fetch_file(ask: Ask, file: Announced, final: Path, *, place: str, note: Note) -> None:
    """Fetch a file, or the rest of it.

    Args:
        ask: The way to it.
        file: What it must be.
        final: Where it goes.
        place: What messages call where it comes from.
        note: Told how far it is.

    Raises:
        UpstreamNotAllowedError: The place breaks off again and again, or its bytes are others.
        PurveyError: The place or the disk refuses.
    """
    if await asyncio.to_thread(final.is_file):
        note(file.num_bytes)
        return
    part = final.with_name(f"{final.name}.part")
    tries_left = TRIES
    while (num_bytes := await asyncio.to_thread(_size, part)) < file.num_bytes:
        note(num_bytes)
        broken = BrokenOffError(f"{place} sends nothing of {file.name!r}.", param="source")
        try:
            await _continue(ask, file, part, num_bytes, place=place, note=note)
        except BrokenOffError as error:
            broken = error
        has_grown = await asyncio.to_thread(_size, part) > num_bytes
        tries_left = TRIES if has_grown else tries_left - 1
        if not tries_left:
            raise broken
    await asyncio.to_thread(_accept, part, file, final, place)
    note(file.num_bytes)


async def _continue(
    ask: Ask, file: Announced, part: Path, num_bytes: int, *, place: str, note: Note
) -> None:
    async with ask({"range": f"bytes={num_bytes}-"} if num_bytes else {}) as opened:
        if opened.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            await asyncio.to_thread(part.unlink, missing_ok=True)
            raise UpstreamNotAllowedError(f"{place} has less of {file.name!r}.", param="source")
        start = _start(opened, file, num_bytes, place)
        await _write(part, start, file, opened.pieces, place=place, note=note)


def _start(opened: Opened, file: Announced, num_bytes: int, place: str) -> int:
    """Return the position of the first byte that comes: 0 where the range was ignored."""
    if opened.status == HTTPStatus.OK:
        return 0
    given = opened.headers.get("content-range", "")
    if not num_bytes or not given.startswith(f"bytes {num_bytes}-"):
        raise UpstreamNotAllowedError(
            f"{place} sends another part of {file.name!r} than was asked for.",
            param="source",
        )
    return num_bytes


async def _write(
    part: Path,
    start: int,
    file: Announced,
    pieces: AsyncIterator[bytes],
    *,
    place: str,
    note: Note,
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
                    f"{place} sends more of {file.name!r} than it has announced.",
                    param="source",
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


def _accept(part: Path, file: Announced, final: Path, place: str) -> None:
    """Give a file its name, or delete it: what has another digest is not what was announced."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()  # an empty one was never asked for
        if (
            file.digest is not None
            and _digest(part, file.digest.kind, file.num_bytes) != file.digest.value
        ):
            part.unlink()
            raise UpstreamNotAllowedError(
                f"{file.name!r} has another {file.digest.title} than {place} announced; it "
                "was deleted.",
                param="source",
            )
        sync_file(part)
        part.rename(final)
    except OSError as error:
        raise storage_error(error) from error


def _digest(part: Path, kind: Kind, num_bytes: int) -> str:
    digest = _started(kind, num_bytes)
    with part.open("rb") as written:
        while chunk := written.read(_PIECE_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _started(kind: Kind, num_bytes: int) -> "_Running":
    if kind == "crc32":
        return _Crc32()
    if kind == "git":
        return hashlib.sha1(b"blob %d\0" % num_bytes, usedforsecurity=False)
    return hashlib.new(kind, usedforsecurity=False)


class _Running(Protocol):
    """A digest that is being computed."""

    def update(self, chunk: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Crc32:
    """CRC-32 as `hashlib` would have it."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, chunk: bytes, /) -> None:
        self._value = zlib.crc32(chunk, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"
