"""Files of datasets from a store: looked up, fetched, checked, handed over, and forgotten.

What was fetched when a request is given up stays in the folder, and the next one goes on from
there as long as the object is the same: a version has a folder of its own.
"""

import asyncio
import hashlib
import logging
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from purvey.errors import InvalidValueError
from purvey.registry.fetching import Announced, fetch_file
from purvey.registry.s3.objects import Found, Store
from purvey.registry.transfers import (
    READ,
    Fetched,
    Pull,
    Transfers,
    check_tables,
    is_wanted,
)

logger = logging.getLogger(__name__)
SCHEME = "s3://"
THE_STORE = "the store"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MAX_KEY_BYTES = 1_024


class S3Datasets:
    """Datasets of the store that the settings name, for one server.

    Args:
        store: The store; None where the settings name none.
        folder: Where files are while they are fetched.
    """

    def __init__(self, store: Store | None, *, folder: Path) -> None:
        self._store, self._folder, self._transfers = store, folder, Transfers()

    def running(self) -> list[Pull]:
        """List the datasets that are being fetched."""
        return self._transfers.running()

    async def close(self) -> None:
        """Close idle connections."""
        if self._store is not None:
            await self._store.close()

    @asynccontextmanager
    async def fetched(self, source: str, patterns: Sequence[str]) -> AsyncIterator[Fetched]:
        """Fetch an object, or those of a folder, for as long as the context lasts.

        Args:
            source: `s3://BUCKET/KEY` of a table or a zip, or `s3://BUCKET/FOLDER`.
            patterns: Which objects of the folder, as `train-*.parquet`, by what follows it; none
                means every table and zip.

        Raises:
            InvalidValueError: The settings name no store; it has no such object, or does not
                show it.
            RequestTooLargeError: A file is larger than an upload may be, or there are too many.
            UpstreamNotAllowedError: The store failed, or sent what it did not announce.
            CapacityError: As many are being fetched as may, this one is, or the store asks to
                wait.
        """
        bucket, key = _read(source)
        if self._store is None:
            raise InvalidValueError(
                "this server reads from no store.",
                param="source",
                hint="The operator names one in the setting 's3.url'; a file that is uploaded "
                "needs none.",
            )
        with self._transfers.begun(source) as pull:
            folder, keys = await self._keys(self._store, bucket, key, patterns)
            found = [await self._store.look_up(bucket, one) for one in keys]
            announced = [_announced(one, folder) for one in found]
            check_tables(announced, place=source)
            pull.num_bytes = sum(one.num_bytes for one in found)
            logger.info("pull.started", extra={"num_bytes": pull.num_bytes})
            places = [self._place(source, one) for one in found]
            for one, file, place in zip(found, announced, places, strict=True):
                await asyncio.to_thread(_forget_others, place.parent)
                ask = self._store.content_of(bucket, one)
                note = partial(pull.note, file.name)
                await fetch_file(ask, file, place, place=THE_STORE, note=note)
            names = [file.name for file in announced]
            yield Fetched(commit=None, files=dict(zip(names, places, strict=True)))
            for place in places:
                await asyncio.to_thread(shutil.rmtree, place.parents[1])

    async def _keys(
        self, store: Store, bucket: str, key: str, patterns: Sequence[str]
    ) -> tuple[str, list[str]]:
        """Return the folder that names are relative to, and the keys that are meant."""
        if key.lower().endswith(READ):
            if patterns:
                raise InvalidValueError(
                    f"{key!r} is one object: patterns choose from a folder.", param="files"
                )
            return key[: key.rfind("/") + 1], [key]
        folder = f"{key.rstrip('/')}/" if key else ""
        found = await store.listed(bucket, folder, lambda name: is_wanted(name, patterns))
        listed = [Announced(name=f.key, num_bytes=f.num_bytes, digest=None) for f in found]
        check_tables(listed, place=f"{SCHEME}{bucket}/{folder}")
        return folder, sorted(one.key for one in found)

    def _place(self, source: str, found: Found) -> Path:
        """Return where this version of an object goes, in a folder of all its versions."""
        whose, which = (
            hashlib.sha256(text.encode()).hexdigest()[:32]
            for text in (f"{source} {found.key}", f"{found.etag} {found.num_bytes}")
        )
        return self._folder / whose / which / "object"


def _read(source: str) -> tuple[str, str]:
    """Return bucket and key, which may be empty.

    Raises:
        InvalidValueError: It is no such address.
    """
    bucket, _, key = source.removeprefix(SCHEME).partition("/")
    is_plain = key.isprintable() and len(key.encode()) <= _MAX_KEY_BYTES
    is_straight = not {".", ".."} & set(key.split("/")) and "//" not in f"/{key}"
    if not (source.startswith(SCHEME) and _BUCKET.fullmatch(bucket) and is_plain and is_straight):
        raise InvalidValueError(
            f"an object of a store is {SCHEME}BUCKET/KEY, objects of a folder "
            f"{SCHEME}BUCKET/FOLDER.",
            param="source",
            hint="",
        )
    return bucket, key


def _announced(found: Found, folder: str) -> Announced:
    name = found.key.removeprefix(folder)
    return Announced(name=name, num_bytes=found.num_bytes, digest=found.digest)


def _forget_others(version: Path) -> None:
    """Delete what was fetched of an object's earlier versions."""
    if version.parent.is_dir():
        for other in version.parent.iterdir():
            if other != version:
                shutil.rmtree(other, ignore_errors=True)
