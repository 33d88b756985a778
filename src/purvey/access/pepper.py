"""The server's own secret: without it, stored hashes of keys cannot be tried out."""

import os
import secrets
from pathlib import Path

from purvey.errors import SettingError
from purvey.store.disk import sync_folder
from purvey.store.failures import storage_error

PEPPER_BYTES = 32


def read_or_create(data_dir: Path, *, has_keys: bool) -> bytes:
    """Read `secret/pepper` below `data_dir`, created on the first start.

    Args:
        data_dir: The folder of everything stored.
        has_keys: Whether the database holds keys, which were hashed with a pepper.

    Raises:
        SettingError: The file is not the 32 bytes that were written, or is gone while there
            are keys; they would all fail.
        StorageUnavailableError: The disk refused.
    """
    path = data_dir / "secret" / "pepper"
    try:
        if not path.exists():
            if has_keys:
                raise _lost(path)
            _create(path)
        pepper = path.read_bytes()
    except OSError as error:
        raise storage_error(error) from error
    if len(pepper) != PEPPER_BYTES:
        raise SettingError(
            f"{path.name!r} in {path.parent.name!r} of data_dir is damaged.",
            param="data_dir",
            hint="Restore it from a backup; with another one, no API key is valid.",
        )
    return pepper


def _lost(path: Path) -> SettingError:
    return SettingError(
        f"{path.name!r} in {path.parent.name!r} of data_dir is gone, and the database has API keys "
        "that are valid with it only.",
        param="data_dir",
        hint="Restore the file from the backup that the database is of. If there is none, all keys "
        "are lost: run DELETE FROM keys on the database, and the next start makes a new one.",
    )


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(".pepper.new")
    aside.unlink(missing_ok=True)
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, secrets.token_bytes(PEPPER_BYTES))
        os.fsync(fd)
    finally:
        os.close(fd)
    aside.rename(path)
    sync_folder(path.parent)
    sync_folder(path.parent.parent)
