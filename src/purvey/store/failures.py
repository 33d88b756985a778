"""What the disk and the database say, as errors of ours."""

import errno
import sqlite3

from sqlalchemy.exc import DBAPIError

from purvey.errors import CapacityError, InsufficientStorageError, StorageUnavailableError


def storage_error(error: Exception) -> CapacityError:
    """Translate a refusal to store; `InsufficientStorageError` when the disk is full."""
    if isinstance(error, CapacityError):
        return error
    if _is_full(error):
        return InsufficientStorageError("the disk is full; nothing was stored.")
    return StorageUnavailableError("the storage refused the operation; nothing was stored.")


def _is_full(error: Exception) -> bool:
    if isinstance(error, DBAPIError):
        code = getattr(error.orig, "sqlite_errorcode", None)
        return code == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
