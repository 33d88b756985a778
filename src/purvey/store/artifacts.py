"""Folders by the digest of their content: models and prepared datasets.

Every file is hashed and synced, the manifest is written last, and the folder is renamed to
its digest: a folder under its final name is complete, and one without a manifest never counts.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from purvey.errors import IntegrityError, InvalidFileError, NotFoundError
from purvey.store.disk import sync_file, sync_folder
from purvey.store.failures import storage_error

ARTIFACT_MANIFEST = "artifact.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A published folder; read-only from now on."""

    digest: str
    folder: Path


class ArtifactFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an artifact; `path` is relative, with `/`."""

    path: str
    num_bytes: int
    sha256: str


class ArtifactManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `artifact.json`: every other file, by path."""

    files: tuple[ArtifactFile, ...]

    def digest(self) -> str:
        """Return the hex SHA-256 of the manifest's canonical JSON: the artifact's name."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """Return the canonical JSON: fields in order, no spaces."""
        return msgspec.json.encode(self)


class Artifacts:
    """A folder of artifacts.

    Args:
        root: The folder; created if need be. What is published must lie on its file system.

    Raises:
        StorageUnavailableError: The folder cannot be used.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error) from error

    def publish(self, folder: Path) -> Artifact:
        """Take a finished folder over; publishing equal content again changes nothing.

        Raises:
            InvalidFileError: The folder is empty, or holds a link or device.
            InsufficientStorageError: The disk is full; the folder is left where it was.
            StorageUnavailableError: The disk refused; the folder is left where it was.
        """
        try:
            manifest = _manifest(folder)
            digest = manifest.digest()
            final = self._root / digest
            if self._is_whole(digest):
                shutil.rmtree(folder)
            else:
                _write_manifest(folder, manifest)
                shutil.rmtree(final, ignore_errors=True)  # a torn removal, or damage
                folder.rename(final)
                sync_folder(self._root)
        except OSError as error:
            raise storage_error(error) from error
        return Artifact(digest=digest, folder=final)

    def folder(self, digest: str) -> Path:
        """Return a published folder.

        Raises:
            NotFoundError: No artifact has this digest.
        """
        final = self._root / digest
        if not _DIGEST.fullmatch(digest) or not (final / ARTIFACT_MANIFEST).exists():
            raise NotFoundError(f"no artifact {digest!r}.")
        return final

    def verify(self, digest: str) -> None:
        """Read every byte of an artifact again.

        Raises:
            NotFoundError: No artifact has this digest.
            IntegrityError: A file is missing, added, or not what was published.
        """
        folder = self.folder(digest)
        try:
            found = _manifest(folder)
        except (OSError, InvalidFileError) as error:
            raise IntegrityError(f"artifact {digest!r} cannot be read.") from error
        if found.digest() != digest:
            raise IntegrityError(f"artifact {digest!r} is not what was stored.")

    def remove(self, digest: str) -> None:
        """Delete an artifact that no row names any more; it may be gone already.

        Raises:
            StorageUnavailableError: The disk refused.
        """
        with contextlib.suppress(NotFoundError):
            folder = self.folder(digest)
            try:
                (folder / ARTIFACT_MANIFEST).unlink()  # first: a torn deletion is no artifact
                sync_folder(folder)
                shutil.rmtree(folder)
            except OSError as error:
                raise storage_error(error) from error

    def _is_whole(self, digest: str) -> bool:
        try:
            self.verify(digest)
        except (NotFoundError, IntegrityError):
            return False
        return True


def _manifest(folder: Path) -> ArtifactManifest:
    files = tuple(_file(folder, path) for path in sorted(_paths(folder)))
    if not files:
        raise InvalidFileError("an artifact needs at least one file.")
    return ArtifactManifest(files=files)


def _paths(folder: Path) -> Iterator[str]:
    for entry in folder.rglob("*"):
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise InvalidFileError("an artifact holds plain files and folders only.")
        path = entry.relative_to(folder).as_posix()
        if entry.is_file() and path != ARTIFACT_MANIFEST:
            yield path


def _file(folder: Path, path: str) -> ArtifactFile:
    with (folder / path).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return ArtifactFile(path=path, num_bytes=stream.tell(), sha256=digest)


def _write_manifest(folder: Path, manifest: ArtifactManifest) -> None:
    for file in manifest.files:
        sync_file(folder / file.path)
    for inner in [entry for entry in folder.rglob("*") if entry.is_dir()]:
        sync_folder(inner)
    sync_folder(folder)
    with (folder / ARTIFACT_MANIFEST).open("wb") as stream:
        _write_through(stream, manifest.to_json())
    sync_folder(folder)


def _write_through(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
    stream.flush()
    os.fsync(stream.fileno())
