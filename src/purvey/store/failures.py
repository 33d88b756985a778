"""What the disk and the database say, as errors of ours."""

import errno
import sqlite3

from sqlalchemy.exc import DBAPIError, OperationalError

from purvey.errors import CapacityError, InsufficientStorageError, StorageUnavailableError


def storage_error(error: Exception) -> CapacityError:
    """Translate a refusal to store; `InsufficientStorageError` when the disk is full."""
    if isinstance(error, CapacityError):
        return error
    if _is_full(error):
        return InsufficientStorageError("the disk is full; nothing was stored.")
    return StorageUnavailableError("the storage refused the operation; nothing was stored.")


def is_refusal(error: Exception) -> bool:
    """Tell a refusal of disk or database from a row that breaks a rule."""
    if isinstance(error, OperationalError):
        return True
    # Damage found while running has no subclass of its own.
    return isinstance(error, DBAPIError) and type(error.orig) is sqlite3.DatabaseError


def error_number(error: Exception) -> int | None:
    """Return SQLite's code or the system's, where there is one."""
    if isinstance(error, OSError):
        return error.errno
    raised = error.orig if isinstance(error, DBAPIError) else error
    return getattr(raised, "sqlite_errorcode", None)


def _is_full(error: Exception) -> bool:
    number = error_number(error)
    if isinstance(error, OSError):
        return number in {errno.ENOSPC, errno.EDQUOT}
    return number == sqlite3.SQLITE_FULL
