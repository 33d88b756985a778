"""Bytes by the SHA-256 of their content, whole or not there at all.

A blob is written aside in the same folder, synced, renamed, and the folder synced; a failed
sync abandons the file. One owner per root: opening it removes what an interrupted write left.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from purvey import failpoints
from purvey.errors import IntegrityError, NotFoundError, RequestTooLargeError
from purvey.store.disk import sync_folder
from purvey.store.failures import storage_error

ASIDE = ".incoming-"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class StoredBlob:
    """What identifies stored bytes, and how many there are."""

    sha256: str
    num_bytes: int


class Blobs:
    """A folder of blobs. Equal bytes are one blob: see `files.is_blob_used` before `remove`.

    Args:
        root: The folder; created if need be.

    Raises:
        StorageUnavailableError: The folder cannot be used.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            for leftover in root.glob(f"{ASIDE}*"):
                leftover.unlink()
        except OSError as error:
            raise storage_error(error) from error

    async def put(self, chunks: AsyncIterator[bytes], *, max_bytes: int) -> StoredBlob:
        """Store a stream; nothing stays behind when it fails, is cancelled, or is too long.

        Raises:
            RequestTooLargeError: More than `max_bytes` came.
            InsufficientStorageError: The disk is full.
            StorageUnavailableError: The disk refused.
        """
        with _Incoming(self._root) as incoming:
            async for chunk in chunks:
                if incoming.num_bytes + len(chunk) > max_bytes:
                    raise RequestTooLargeError(
                        f"the file is larger than {max_bytes} bytes.", param="file"
                    )
                await asyncio.to_thread(incoming.write, chunk)
            return await asyncio.to_thread(incoming.keep)

    def put_bytes(self, data: bytes) -> StoredBlob:
        """Store bytes.

        Raises:
            InsufficientStorageError: The disk is full; nothing is stored.
            StorageUnavailableError: The disk refused; nothing is stored.
        """
        with _Incoming(self._root) as incoming:
            incoming.write(data)
            return incoming.keep()

    def path(self, sha256: str) -> Path:
        """Return where a blob is, or would be.

        Raises:
            NotFoundError: `sha256` is not 64 lower-case hexadecimal digits.
        """
        if not _SHA256.fullmatch(sha256):
            raise NotFoundError("no such stored bytes.")
        return self._root / sha256

    def intact(self, sha256: str) -> Path:
        """Return where a blob is, having read every byte of it. Blocking.

        Raises:
            NotFoundError: As `path`.
            IntegrityError: It is gone, cannot be read, or is not what was stored.
        """
        path = self.path(sha256)
        try:
            with path.open("rb") as stream:
                is_whole = hashlib.file_digest(stream, "sha256").hexdigest() == sha256
        except OSError as error:
            raise IntegrityError("stored bytes cannot be read.") from error
        if not is_whole:
            raise IntegrityError("stored bytes were changed.")
        return path

    def names(self) -> list[str]:
        """List the hashes of what is stored.

        Raises:
            StorageUnavailableError: The disk refused.
        """
        try:
            return [entry.name for entry in self._root.iterdir() if _SHA256.fullmatch(entry.name)]
        except OSError as error:
            raise storage_error(error) from error

    def remove(self, sha256: str) -> None:
        """Delete a blob that no row names any more; it may be gone already.

        Raises:
            StorageUnavailableError: The disk refused.
        """
        try:
            self.path(sha256).unlink(missing_ok=True)
            sync_folder(self._root)
        except OSError as error:
            raise storage_error(error) from error


class _Incoming:
    """A blob being written aside; unless kept, it is deleted on leaving the block."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / f"{ASIDE}{secrets.token_hex(8)}"
        self._hash = hashlib.sha256()
        self.num_bytes = 0
        try:
            self._file = self._path.open("xb")
        except OSError as error:
            raise storage_error(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # closing may flush, and fail as the write did
            self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self.num_bytes += len(chunk)
        try:
            failpoints.reach("blob.tmp")
            self._file.write(chunk)
        except OSError as error:
            raise storage_error(error) from error

    def keep(self) -> StoredBlob:
        blob = StoredBlob(sha256=self._hash.hexdigest(), num_bytes=self.num_bytes)
        try:
            self._file.flush()
            failpoints.reach("blob.fsync")
            os.fsync(self._file.fileno())
            self._file.close()
            self._path.rename(self._root / blob.sha256)
            failpoints.reach("blob.renamed")
            sync_folder(self._root)
        except OSError as error:
            raise storage_error(error) from error
        return blob
