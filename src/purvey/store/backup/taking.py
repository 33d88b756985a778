"""Taking a backup: hold every file that one moment of the database names, then copy that moment.

A server may be deleting files meanwhile. It removes one only after the row that named it is
gone, so a file that vanished under us is not named by the next moment; what was copied before
is kept, and the next round has only what is new to copy. `docs/explanation/concurrency.md`
says what may interleave.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from purvey.errors import IntegrityError, InvalidValueError, StorageUnavailableError
from purvey.store.artifacts import ARTIFACT_MANIFEST, ArtifactManifest
from purvey.store.backup.copying import Moved, copy_file, hash_file, require_empty, written_aside
from purvey.store.backup.manifest import (
    ARTIFACTS,
    BLOBS,
    DATABASE,
    FORMAT,
    MANIFEST,
    PEPPER,
    BackupFile,
    BackupManifest,
)
from purvey.store.backup.snapshot import Named, Snapshot, snapshot_of

MAX_ROUNDS = 50
"""Moments tried; each round after the first copies only what came since the one before."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a server keeps what is backed up.

    Args:
        data_dir: Its data folder.
        database: Its database file, in that folder or elsewhere.
    """

    data_dir: Path
    database: Path


def take_backup(
    source: Source, target: Path, *, version: str, now: float, moved: Moved
) -> BackupManifest:
    """Copy a data folder, whether or not a server runs on it; nothing in it is changed.

    Args:
        source: What to copy.
        target: A folder that is empty or not there; it appears when it is whole.
        version: Of this program.
        now: Epoch seconds.
        moved: Told of the bytes copied.

    Raises:
        InvalidValueError: The target is not empty, or lies in the data folder.
        SettingError: There is no database of ours.
        IntegrityError: A stored file is missing or changed; names it.
        InsufficientStorageError: The disk is full.
        StorageUnavailableError: A disk refused, or files came and went too fast.
    """
    if target.resolve().is_relative_to(source.data_dir.resolve()):
        raise InvalidValueError("a backup cannot lie in the data folder.", param="target")
    with written_aside(target) as folder:
        require_empty(target, param="target")
        holds = _Holds(source.data_dir, folder, moved)
        for _ in range(MAX_ROUNDS):
            with snapshot_of(source.database, is_live=True) as moment:
                named = moment.named()
                if holds.take(named):
                    return _finish(holds, moment, named, version=version, now=now)
        raise holds.gave_up()


def _finish(
    holds: "_Holds", moment: Snapshot, named: Named, *, version: str, now: float
) -> BackupManifest:
    """Copy the moment itself, drop what it does not name, and write the manifest."""
    holds.keep_only(named)
    moment.copy_to(holds.folder / DATABASE)
    database = hash_file(holds.folder, DATABASE, moved=lambda _: None)
    files = sorted([database, *holds.pepper(named), *holds.files()], key=lambda file: file.path)
    manifest = BackupManifest(
        format=FORMAT,
        purvey=version,
        database_schema=moment.version,
        created_at=now,
        files=tuple(files),
        models_elsewhere=named.models_elsewhere,
        unfinished_jobs=named.unfinished_jobs,
    )
    (holds.folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


@dataclass
class _Holds:
    """Copies made so far, by the path of the blob or artifact that each set of files is.

    `absent` are the paths that were named and not there in every round until now.
    """

    data_dir: Path
    folder: Path
    moved: Moved
    held: dict[str, list[BackupFile]] = field(default_factory=dict)
    absent: set[str] | None = None

    def take(self, named: Named) -> bool:
        """Copy what is named and not held yet; tell whether all of it is held now."""
        missing = {path for path in _paths(named) if path not in self.held and not self._hold(path)}
        self.absent = missing if self.absent is None else self.absent & missing
        return not missing

    def keep_only(self, named: Named) -> None:
        """Delete copies of what the moment no longer names."""
        for path in self.held.keys() - set(_paths(named)):
            del self.held[path]
            self._discard(path)

    def files(self) -> Iterator[BackupFile]:
        """Return every file of what is held."""
        for files in self.held.values():
            yield from files

    def pepper(self, named: Named) -> list[BackupFile]:
        """Copy the secret that keys were hashed with; it is written once and never changes."""
        try:
            return [copy_file(self.data_dir / PEPPER, self.folder, PEPPER, moved=self.moved)]
        except FileNotFoundError:
            if named.needs_pepper:
                raise IntegrityError(f"{PEPPER!r} is missing, and keys need it.") from None
            return []

    def gave_up(self) -> IntegrityError | StorageUnavailableError:
        """Say why no round has ended with everything held."""
        if self.absent:
            return IntegrityError(
                f"the database names {min(self.absent)!r}, which is not there; no backup was made."
            )
        return StorageUnavailableError(
            "files came and went faster than they could be copied; no backup was made.",
            hint="Try again when fewer are deleted.",
        )

    def _hold(self, path: str) -> bool:
        """Copy one blob or artifact; False when it is not there."""
        try:
            copied = self._artifact(path) if path.startswith(ARTIFACTS) else [self._blob(path)]
        except FileNotFoundError:
            self._discard(path)  # of an artifact, some files were there
            return False
        self.held[path] = copied
        return True

    def _discard(self, path: str) -> None:
        copy = self.folder / path
        if path.startswith(ARTIFACTS):
            shutil.rmtree(copy, ignore_errors=True)
        else:
            copy.unlink(missing_ok=True)

    def _blob(self, path: str) -> BackupFile:
        return self._copy(path, sha256=Path(path).name)

    def _artifact(self, path: str) -> list[BackupFile]:
        manifest = self._copy(f"{path}/{ARTIFACT_MANIFEST}", sha256=Path(path).name)
        listed = msgspec.json.decode(
            (self.folder / manifest.path).read_bytes(), type=ArtifactManifest
        )
        parts = [self._copy(f"{path}/{file.path}", sha256=file.sha256) for file in listed.files]
        return [manifest, *parts]

    def _copy(self, path: str, *, sha256: str) -> BackupFile:
        copied = copy_file(self.data_dir / path, self.folder, path, moved=self.moved)
        if copied.sha256 != sha256:
            raise IntegrityError(f"{path!r} is not what was stored; no backup was made.")
        return copied


def _paths(named: Named) -> list[str]:
    blobs = [f"{BLOBS}/{sha256}" for sha256 in named.blobs]
    return blobs + [f"{ARTIFACTS}/{digest}" for digest in named.artifacts]
