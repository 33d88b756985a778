"""Putting a backup back: every byte is checked before the first one is written."""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from purvey.errors import IntegrityError
from purvey.store.artifacts import ARTIFACT_MANIFEST, ArtifactManifest
from purvey.store.backup.copying import (
    Moved,
    copy_file,
    hash_file,
    refused,
    require_empty,
    written_aside,
)
from purvey.store.backup.manifest import (
    ARTIFACTS,
    BLOBS,
    DATABASE,
    PEPPER,
    BackupFile,
    BackupManifest,
    read_manifest,
)
from purvey.store.backup.snapshot import Named, snapshot_of
from purvey.store.failures import storage_error


def restore_backup(source: Path, data_dir: Path, *, moved: Moved) -> BackupManifest:
    """Check a backup and make a data folder of it.

    Jobs that ran at its moment are queued again: they go on when a server starts.

    Args:
        source: The backup's folder; nothing in it is changed.
        data_dir: A folder that is empty or not there; it appears when it is whole.
        moved: Told of the bytes read to check, and again of those copied.

    Raises:
        InvalidValueError: `data_dir` is not empty; nothing was changed.
        IntegrityError: The backup is incomplete or damaged; names the file.
        UnsupportedValueError: The backup's format is of a newer version.
        SettingError: The database in it is of a newer version.
        InsufficientStorageError: The disk is full; nothing was restored.
        StorageUnavailableError: A disk refused; nothing was restored.
    """
    try:
        require_empty(data_dir, param="data_dir")
        manifest = verify_backup(source, moved=moved)
    except OSError as error:
        raise refused(error) from error
    with written_aside(data_dir) as folder:
        for file in manifest.files:
            copied = copy_file(source / file.path, folder, file.path, moved=moved)
            _require_equal(file, copied)
        _hand_back(folder / DATABASE)
    return manifest


def verify_backup(source: Path, *, moved: Moved) -> BackupManifest:
    """Read a whole backup, and look up in its database that nothing is left out.

    Raises:
        IntegrityError: The backup is incomplete or damaged; names the file.
        UnsupportedValueError: The backup's format is of a newer version.
        SettingError: The database in it is of a newer version.
        OSError: The disk refused.
    """
    manifest = read_manifest(source)
    for file in manifest.files:
        try:
            found = hash_file(source, file.path, moved=moved)
        except (FileNotFoundError, NotADirectoryError):
            raise _incomplete(file.path) from None
        _require_equal(file, found)
    files = {file.path: file.sha256 for file in manifest.files}
    _require(files, DATABASE)
    with snapshot_of(source / DATABASE, is_live=False) as moment:
        _require_all(source, files, moment.named())
    return manifest


def _hand_back(database: Path) -> None:
    """Queue what ran, at no cost of an attempt: no worker was lost."""
    try:
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute(
                "UPDATE jobs SET status = 'queued', lease = NULL, lease_expires_at = NULL,"
                " attempt = attempt - 1 WHERE status = 'running' AND wanted = 'run'"
            )
    except sqlite3.Error as error:
        raise storage_error(error) from error


def _require_all(source: Path, files: dict[str, str], named: Named) -> None:
    if named.needs_pepper:
        _require(files, PEPPER)
    for sha256 in named.blobs:
        _require(files, f"{BLOBS}/{sha256}", sha256=sha256)
    for digest in named.artifacts:
        path = f"{ARTIFACTS}/{digest}"
        _require(files, f"{path}/{ARTIFACT_MANIFEST}", sha256=digest)
        content = (source / path / ARTIFACT_MANIFEST).read_bytes()
        for part in msgspec.json.decode(content, type=ArtifactManifest).files:
            _require(files, f"{path}/{part.path}", sha256=part.sha256)


def _require(files: dict[str, str], path: str, *, sha256: str | None = None) -> None:
    if path not in files:
        raise _incomplete(path)
    if sha256 is not None and files[path] != sha256:
        raise _damaged(path)


def _require_equal(file: BackupFile, found: BackupFile) -> None:
    if file != found:
        raise _damaged(file.path)


def _incomplete(path: str) -> IntegrityError:
    return IntegrityError(f"the backup is incomplete: {path!r} is missing; nothing was restored.")


def _damaged(path: str) -> IntegrityError:
    return IntegrityError(
        f"the backup is damaged: {path!r} is not what was copied; nothing was restored."
    )
