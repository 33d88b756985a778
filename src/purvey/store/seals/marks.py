"""Files that were checked whole, known again by what the file system says of them.

A file whose device, inode, size, time of change and time of change of its record (`ctime`) are
all as they were has not been written through the file system since: whatever writes, truncates,
renames over or touches it sets `ctime`, which no program can set to a time of its choice. What
is not noticed is what goes around the file system: a disk that rots, a device that is written
raw, a clock that is set back by the administrator.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

_SETTLED_NS = 50_000_000
"""Kernels tell time in ticks: a write within the tick of an earlier one leaves no mark."""


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """What the file system says of one file, and its path; times in nanoseconds."""

    path: str
    device: int
    inode: int
    num_bytes: int
    modified_ns: int
    changed_ns: int


Marks = tuple[Mark, ...]
_decoder = msgspec.json.Decoder(Marks)


def marks_of(paths: Iterable[Path]) -> Marks:
    """Ask the file system about files; links are followed.

    Raises:
        OSError: One is not there.
    """
    found = []
    for path in sorted(paths):
        seen = path.stat()
        found.append(
            Mark(
                path=str(path),
                device=seen.st_dev,
                inode=seen.st_ino,
                num_bytes=seen.st_size,
                modified_ns=seen.st_mtime_ns,
                changed_ns=seen.st_ctime_ns,
            )
        )
    return tuple(found)


class Seals:
    """Marks of files at their last full check, by a name that says what they should be.

    Losing one costs a full check; nothing else depends on them. Thread-safe.

    Args:
        folder: Where they are kept; made when the first one is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def holds(self, name: str, marks: Marks) -> bool:
        """Tell whether these very files, all of them and no others, passed and stayed as they were.

        Args:
            name: A digest or the like; a plain file name.
            marks: As they are now.
        """
        try:
            known = _decoder.decode(self._path(name).read_bytes())
        except (OSError, msgspec.MsgspecError):
            return False
        return known == marks

    def keep(self, name: str, marks: Marks) -> bool:
        """Note that files passed; tell whether it was noted.

        It is not where one was written so lately that a later write might leave no mark, or where
        the disk refuses.

        Args:
            name: As for `holds`.
            marks: Taken before the files were read.
        """
        path = self._path(name)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_bytes(msgspec.json.encode(marks))
            now_ns = fresh.stat().st_mtime_ns  # by the same clock as the marks
            if any(now_ns - mark.changed_ns < _SETTLED_NS for mark in marks):
                fresh.unlink()
                return False
            fresh.replace(path)
        except OSError:
            return False
        return True

    def forget(self, name: str) -> None:
        """Have the next check be a full one."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        assert name == Path(name).name, "a seal's name is a file's"  # noqa: S101
        return self._folder / f"{name}.json"
