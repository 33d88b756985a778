"""Bytes that stay: files and folder entries forced to the disk."""

import os
import shutil
from pathlib import Path

from purvey import failpoints


def sync_file(path: Path) -> None:
    """Force a file's bytes to the disk.

    Raises:
        OSError: The disk refused. The file must then be abandoned: a second fsync may claim
            success for bytes that are lost.
    """
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Force a folder's entries (new and renamed files) to the disk.

    Raises:
        OSError: The disk refused.
    """
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def free_bytes(folder: Path) -> int:
    """Return the bytes that may still be written to the disk of a folder.

    Raises:
        OSError: The disk refused.
    """
    return shutil.disk_usage(folder).free


def _sync(path: Path, flags: int) -> None:
    failpoints.reach("disk.fsync")
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
