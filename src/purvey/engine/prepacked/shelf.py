"""The folder where prepacked weights are kept: whole entries, the least recently used leave first.

An entry is a folder of safetensors files, numbered; it is written aside, renamed, and sealed when
all of it is on the disk (`store.seals`). One without a seal, whose writer died, is no entry and
goes when the next is written.
"""

import contextlib
import hashlib
import logging
import os
import shutil
from pathlib import Path

import msgspec

from purvey.store.disk import free_bytes
from purvey.store.seals.marks import Marks, marks_of

logger = logging.getLogger(__name__)
_SEAL, _ASIDE = "seal.json", ".new-"
_CHUNK_BYTES = 2**20
_UNFINISHED_S = 3_600.0
RESERVE_BYTES = 2**30
"""What an entry leaves free on the disk, which is the database's too."""


class _Seal(msgspec.Struct, frozen=True):
    marks: Marks
    digest: str


class Shelf:
    """Entries by key. Several processes may use one folder.

    Args:
        folder: Made when the first entry is written.
        max_bytes: What all entries may take together.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes

    def find(self, key: str) -> list[Path] | None:
        """Return an entry's files in order, or None where there is none that is whole.

        What has been written to since it was sealed is read and compared; if it is not what it
        was, it is thrown away.
        """
        entry = self._folder / key
        try:
            seal = msgspec.json.decode((entry / _SEAL).read_bytes(), type=_Seal)
            files = _files(entry)
            if marks_of(files) != seal.marks and not self._reseal(entry, seal.digest):
                return None
            os.utime(entry / _SEAL)  # used now
        except (OSError, msgspec.MsgspecError):
            return None
        return files

    def begin(self, key: str, *, num_bytes: int) -> Path | None:
        """Make a folder aside for an entry of about so many bytes; None where the disk refuses."""
        aside = self._folder / f"{_ASIDE}{key}.{os.getpid()}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if num_bytes > self._max_bytes or free_bytes(self._folder) < num_bytes + RESERVE_BYTES:
                return None
            aside.mkdir(mode=0o700)
        except OSError:
            return None
        return aside

    def finish(self, aside: Path, key: str) -> bool:
        """Put what was written aside in its place, not sealed yet; tell whether it could be."""
        self.discard(key)
        try:
            aside.rename(self._folder / key)
        except OSError:  # the disk, or another process that was quicker
            self.abandon(aside)
            return False
        return True

    def abandon(self, aside: Path) -> None:
        """Throw away what was written aside."""
        _throw_away(aside)

    def seal(self, key: str) -> None:
        """Bring a written entry to the disk and say that it is whole; others make room for it.

        Where the disk refuses there is no entry.
        """
        entry = self._folder / key
        try:
            for path in (*_files(entry), entry, self._folder):
                _sync(path)
            self._reseal(entry, _digest(_files(entry)))
        except OSError:
            logger.warning("prepacked.not_kept", exc_info=True)
            _throw_away(entry)
            return
        with contextlib.suppress(OSError):  # another process lets the same ones go
            self._make_room(key)

    def discard(self, key: str) -> None:
        """Throw an entry away, if there is one; who has mapped it keeps it."""
        _throw_away(self._folder / key)

    def _reseal(self, entry: Path, digest: str) -> bool:
        files = _files(entry)
        marks = marks_of(files)
        if _digest(files) != digest:
            logger.warning("prepacked.damaged", extra={"entry": entry.name})
            _throw_away(entry)
            return False
        fresh = entry / f"{_SEAL}.{os.getpid()}"
        fresh.write_bytes(msgspec.json.encode(_Seal(marks=marks, digest=digest)))
        fresh.replace(entry / _SEAL)
        return True

    def _make_room(self, newest: str) -> None:
        """Let the least recently used go, and what somebody began long ago and never finished."""
        held: list[tuple[float, int, Path]] = []
        now = (self._folder / newest / _SEAL).stat().st_mtime
        for entry in [path for path in self._folder.iterdir() if path.is_dir()]:
            try:
                used = (entry / _SEAL).stat().st_mtime
                held.append((used, sum(file.stat().st_size for file in _files(entry)), entry))
            except OSError:
                if now - entry.stat().st_mtime > _UNFINISHED_S:
                    _throw_away(entry)
        total = sum(num_bytes for _, num_bytes, _ in held)
        for _, num_bytes, entry in sorted(held, key=lambda one: (one[2].name == newest, one[0])):
            if total <= self._max_bytes:
                return
            _throw_away(entry)
            total -= num_bytes


def key_of(*parts: str) -> str:
    """Name an entry by all that its bytes depend on."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _files(entry: Path) -> list[Path]:
    return sorted(entry.glob("*.safetensors"))


def _digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.name.encode())
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                content.update(chunk)
        total.update(content.digest())
    return total.hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _throw_away(entry: Path) -> None:
    with contextlib.suppress(OSError):
        (entry / _SEAL).unlink()  # first: half an entry is none
    shutil.rmtree(entry, ignore_errors=True)
