"""Files into a folder that is written aside: hashed in passing, synced together, then renamed."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from purvey.errors import CapacityError, InvalidValueError, StorageUnavailableError
from purvey.store.backup.manifest import BackupFile
from purvey.store.disk import sync_file, sync_folder
from purvey.store.failures import storage_error

CHUNK_BYTES = 2**20
Moved = Callable[[int], None]
"""Told of every chunk, with its bytes: for showing progress."""


def copy_file(source: Path, root: Path, path: str, *, moved: Moved) -> BackupFile:
    """Copy `source` to `path` below `root`, readable by the owner only; it is not synced yet.

    Raises:
        OSError: It is gone, or a disk refused; what was begun is left to the folder's owner.
    """
    target = root / path
    with source.open("rb") as stream:
        _make_parents(target, root)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        digest = hashlib.sha256()
        with os.fdopen(fd, "wb") as out:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
                out.write(chunk)
                moved(len(chunk))
            return BackupFile(path=path, num_bytes=stream.tell(), sha256=digest.hexdigest())


def hash_file(root: Path, path: str, *, moved: Moved) -> BackupFile:
    """Describe a file as it is on the disk.

    Raises:
        OSError: It is not there, or cannot be read.
    """
    digest = hashlib.sha256()
    with (root / path).open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            moved(len(chunk))
        return BackupFile(path=path, num_bytes=stream.tell(), sha256=digest.hexdigest())


def require_empty(target: Path, *, param: str) -> None:
    """Refuse a target that holds anything.

    Raises:
        InvalidValueError: It is there and is not an empty folder.
        OSError: It cannot be looked at.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InvalidValueError(f"{str(target)!r} is not a folder.", param=param)
    if target.exists() and any(target.iterdir()):
        raise InvalidValueError(
            f"{str(target)!r} is not empty; nothing was changed.",
            param=param,
            hint="Name a folder that is empty or not there.",
        )


@contextmanager
def written_aside(final: Path) -> Iterator[Path]:
    """Give a new folder beside `final`; it gets that name when the block ends well.

    Otherwise it is removed. A process that is killed leaves `.NAME.unfinished-...` behind.

    Raises:
        InsufficientStorageError: The disk is full.
        StorageUnavailableError: A disk refused.
    """
    final = final.absolute()
    aside = final.with_name(f".{final.name}.unfinished-{secrets.token_hex(8)}")
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir(mode=0o700)
        yield aside
        _sync_tree(aside)
        aside.rename(final)
        sync_folder(final.parent)
    except OSError as error:
        raise refused(error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def refused(error: OSError) -> CapacityError:
    """Say which file or folder the disk refused, and why."""
    translated = storage_error(error)
    if error.filename is None or type(translated) is not StorageUnavailableError:
        return translated
    return StorageUnavailableError(
        f"{str(error.filename)!r}: {error.strerror}.",
        hint="A mount point cannot be replaced: name a folder below it."
        if os.path.ismount(error.filename2 or error.filename)
        else "",
    )


def _make_parents(target: Path, root: Path) -> None:
    for folder in reversed(target.relative_to(root).parents[:-1]):
        (root / folder).mkdir(mode=0o700, exist_ok=True)


def _sync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            sync_file(Path(folder) / name)
        sync_folder(Path(folder))
