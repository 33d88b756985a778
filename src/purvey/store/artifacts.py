"""Folders by the digest of their content: models and prepared datasets.

Every file is hashed and synced, the manifest is written last, and the folder is renamed to
its digest: a folder under its final name is complete, and one without a manifest never counts.
One owner per root: opening it removes what an interrupted removal left.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from purvey.errors import IntegrityError, InvalidFileError, NotFoundError
from purvey.store.disk import sync_file, sync_folder
from purvey.store.failures import storage_error

ARTIFACT_MANIFEST = "artifact.json"
ASIDE = ".leaving-"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_IS_THERE = {errno.ENOTEMPTY, errno.EEXIST}


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
    """A folder of artifacts. Its methods may be called from any thread.

    Invariant: a digest in `_held` is on its way into a row, and is not set aside.

    Args:
        root: The folder; created if need be. What is published must lie on its file system.

    Raises:
        StorageUnavailableError: The folder cannot be used.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()  # a digest is not held and set aside at one time
        self._replacing = threading.Lock()  # one looks at what is there, and removes the damaged
        try:
            root.mkdir(parents=True, exist_ok=True)
            for leftover in root.glob(f"{ASIDE}*"):
                shutil.rmtree(leftover)
        except OSError as error:
            raise storage_error(error) from error

    def publish(self, folder: Path) -> Artifact:
        """Take a finished folder over; publishing equal content again changes nothing.

        The artifact is held: nobody sets it aside until the publisher, who has written its
        row by then, calls `release`.

        Raises:
            InvalidFileError: The folder is empty, or holds a link or device.
            InsufficientStorageError: The disk is full; the folder is left where it was.
            StorageUnavailableError: The disk refused; the folder is left where it was.
        """
        try:
            manifest = _manifest(folder)
        except OSError as error:
            raise storage_error(error) from error
        digest = manifest.digest()
        with self._lock:
            self._held[digest] += 1
        try:
            self._take_over(folder, manifest)
        except OSError as error:
            self.release(digest)
            raise storage_error(error) from error
        return Artifact(digest=digest, folder=self._root / digest)

    def release(self, digest: str) -> None:
        """Give up one hold that `publish` took."""
        with self._lock:
            self._held[digest] -= 1
            if self._held[digest] <= 0:
                del self._held[digest]

    def folder(self, digest: str) -> Path:
        """Return a published folder.

        Raises:
            NotFoundError: No artifact has this digest.
        """
        final = self._root / digest
        if not _DIGEST.fullmatch(digest) or not (final / ARTIFACT_MANIFEST).exists():
            raise NotFoundError(f"no artifact {digest!r}.")
        return final

    def read(self, digest: str, path: str) -> bytes:
        """Return one file of an artifact, having checked it against the artifact's name.

        Raises:
            NotFoundError: No artifact has this digest.
            IntegrityError: The file, or the manifest that vouches for it, is not what it was.
        """
        folder = self.folder(digest)
        try:
            manifest, data = (folder / ARTIFACT_MANIFEST).read_bytes(), (folder / path).read_bytes()
        except OSError as error:
            raise IntegrityError(f"artifact {digest!r} cannot be read.") from error
        if hashlib.sha256(manifest).hexdigest() == digest:
            sha256 = hashlib.sha256(data).hexdigest()
            files = msgspec.json.decode(manifest, type=ArtifactManifest).files
            if any((file.path, file.sha256) == (path, sha256) for file in files):
                return data
        raise IntegrityError(f"artifact {digest!r} is not what was stored.")

    def files(self, digest: str) -> tuple[ArtifactFile, ...]:
        """List the files of an artifact by its manifest; their bytes are not looked at.

        Raises:
            IntegrityError: The artifact is gone, or its manifest is not what it was.
        """
        try:
            manifest = (self.folder(digest) / ARTIFACT_MANIFEST).read_bytes()
        except (OSError, NotFoundError) as error:
            raise IntegrityError(f"artifact {digest!r} cannot be read.") from error
        if hashlib.sha256(manifest).hexdigest() != digest:
            raise IntegrityError(f"artifact {digest!r} is not what was stored.")
        return msgspec.json.decode(manifest, type=ArtifactManifest).files

    def intact(self, digest: str, path: str) -> Path:
        """Return where one file of an artifact lies, having read all of it.

        Raises:
            NotFoundError: The artifact has no such file.
            IntegrityError: The file, or the manifest that vouches for it, is not what it was.
        """
        named = {file.path: file.sha256 for file in self.files(digest)}
        if path not in named:
            raise NotFoundError(f"no file {path[:200]!r}.", param="file")
        found = self._root / digest / path
        try:
            with found.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise IntegrityError(f"artifact {digest!r} cannot be read.") from error
        if sha256 != named[path]:
            raise IntegrityError(f"artifact {digest!r} is not what was stored.")
        return found

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

    def digests(self) -> list[str]:
        """List what is stored.

        Raises:
            StorageUnavailableError: The disk refused.
        """
        try:
            return [entry.name for entry in self._root.iterdir() if _DIGEST.fullmatch(entry.name)]
        except OSError as error:
            raise storage_error(error) from error

    def set_aside(self, digest: str) -> Path | None:
        """Take an artifact that no row names out of the store, by one rename.

        Returns:
            Where it lies now, for `discard`; None when it is gone already, or held.

        Raises:
            StorageUnavailableError: The disk refused; the artifact is where it was.
        """
        aside = self._root / f"{ASIDE}{secrets.token_hex(8)}"
        with self._lock:
            if digest in self._held:
                return None
            try:
                (self._root / digest).rename(aside)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise storage_error(error) from error
        return aside

    def discard(self, aside: Path) -> None:
        """Delete what was set aside.

        Raises:
            StorageUnavailableError: The disk refused; the next start deletes the rest.
        """
        try:
            shutil.rmtree(aside)
        except OSError as error:
            raise storage_error(error) from error

    def _take_over(self, folder: Path, manifest: ArtifactManifest) -> None:
        """Rename the folder to its final name, or drop it where a whole one has that already.

        Another publisher of equal content may come first at any moment; what it has published
        stays where it is, since it may be in use.
        """
        digest = manifest.digest()
        final = self._root / digest
        has_manifest = False
        while not self._is_whole(digest):
            if not has_manifest:
                _write_manifest(folder, manifest)
                has_manifest = True
            if _renamed(folder, final):
                sync_folder(self._root)
                return
            self._remove_damaged(digest)
        shutil.rmtree(folder)

    def _remove_damaged(self, digest: str) -> None:
        aside = self._root / f"{ASIDE}{secrets.token_hex(8)}"
        with self._replacing:
            if self._is_whole(digest) or not (self._root / digest).exists():
                return
            (self._root / digest).rename(aside)
        shutil.rmtree(aside)

    def _is_whole(self, digest: str) -> bool:
        try:
            self.verify(digest)
        except (NotFoundError, IntegrityError):
            return False
        return True


def _renamed(folder: Path, final: Path) -> bool:
    """Rename, unless the name is taken by a folder that is not empty."""
    try:
        folder.rename(final)
    except OSError as error:
        if error.errno in _IS_THERE:
            return False
        raise
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
