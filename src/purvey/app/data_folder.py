"""The folder of everything stored, held by one server at a time."""

import fcntl
import os
from pathlib import Path
from typing import Self

from purvey.errors import PurveyError, SettingError, StorageUnavailableError
from purvey.store.disk import sync_folder

_PRIVATE = 0o700


class DataFolder:
    """A data folder whose lock this process holds until `close` or its end.

    The lock is the kernel's: a server that was killed leaves nothing to clean up.

    Args:
        root: Absolute path.
        lock: Open descriptor of the locked file.
    """

    def __init__(self, root: Path, lock: int) -> None:
        self.root = root
        self.blobs, self.artifacts = root / "blobs", root / "artifacts"
        self.jobs, self.engines = root / "jobs", root / "engines"
        self.cache = root / "cache"  # made when needed; may be emptied while no server runs
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Make the folder and its parts if need be, readable by their owner only, and lock it.

        Raises:
            SettingError: Another server runs on it, or it cannot be made.
            StorageUnavailableError: The disk refused.
        """
        root = path.absolute()
        is_new = not root.exists()
        try:
            root.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(path, error) from error
        folder = cls(root, lock)
        folder._take_lock()
        try:
            for part in (folder.blobs, folder.artifacts, folder.jobs, folder.engines):
                is_new = is_new or not part.exists()
                part.mkdir(mode=_PRIVATE, exist_ok=True)
            if is_new:  # what will lie in them must not be lost with them
                sync_folder(root)
                sync_folder(root.parent)
        except OSError as error:
            folder.close()
            raise _unusable(path, error) from error
        return folder

    def close(self) -> None:
        """Let another server have the folder; safe to call twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise SettingError(
                f"another server runs on data_dir {str(self.root)!r}.",
                param="data_dir",
                hint="Stop it, or name another folder (PURVEY_DATA_DIR).",
            ) from None


def _unusable(path: Path, error: OSError) -> PurveyError:
    if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
        return SettingError(
            f"data_dir {str(path)!r} cannot be used: {error.strerror}.", param="data_dir"
        )
    return StorageUnavailableError(f"data_dir: {error.strerror}.")
