"""What is on its way here from another server, and which of its files are taken as tables."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from purvey.contracts.limits import LIMITS
from purvey.errors import CapacityError, InvalidValueError, RequestTooLargeError
from purvey.registry.fetching import Announced

MOST_FILES = 64
READ = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".zip")
"""How the names of files end that a dataset is made of."""


@dataclass(kw_only=True)
class Pull:
    """How far a pull is.

    Args:
        source: Hub id, or the address of what becomes files of a dataset.
        revision: As asked for; empty where the source has none.
        commit: What that is; None until the hub has told.
        num_bytes: Bytes of all files; 0 until they are known.
        fetched: Bytes that are on the disk, by file.
        num_waiting: Requests that wait for it.
    """

    source: str
    revision: str
    commit: str | None = None
    num_bytes: int = 0
    fetched: dict[str, int] = field(default_factory=dict)
    num_waiting: int = 0

    @property
    def num_fetched(self) -> int:
        """Bytes that are on the disk."""
        return sum(self.fetched.values())

    def note(self, name: str, num_bytes: int) -> None:
        """Learn how many bytes of a file are on the disk."""
        self.fetched[name] = num_bytes


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Files that are here: each one's path by its name there, and the commit they are of."""

    commit: str | None
    files: dict[str, Path]


class Transfers:
    """Datasets that one server fetches from one place, each once and no more than may be."""

    def __init__(self) -> None:
        self._running: dict[str, Pull] = {}

    def running(self) -> list[Pull]:
        """List those under way."""
        return list(self._running.values())

    @contextmanager
    def begun(self, source: str, revision: str = "") -> Iterator[Pull]:
        """Count one in for as long as the context lasts.

        Raises:
            CapacityError: As many run as may, or this one does.
        """
        if source in self._running or len(self._running) >= LIMITS.running_pulls:
            raise CapacityError(
                f"{len(self._running)} datasets are being fetched, and each at most once at a "
                "time: try again soon.",
                param="source",
            )
        self._running[source] = pull = Pull(source=source, revision=revision)
        try:
            yield pull
        finally:
            del self._running[source]


def is_wanted(name: str, patterns: Sequence[str]) -> bool:
    """Tell whether a file can be read as a table, or a zip, and is meant by a pattern if any is."""
    if name.startswith("/") or {".", ".."} & set(name.split("/")):
        return False
    if not name.lower().endswith(READ):
        return False
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def check_tables(files: Sequence[Announced], *, place: str) -> None:
    """Make sure that files are there, and may be fetched.

    Raises:
        InvalidValueError: There is none.
        RequestTooLargeError: One is larger than an upload may be, or there are too many.
    """
    if not files:
        raise InvalidValueError(
            f"{place!r} has no such file that is one of {', '.join(READ)}.", param="files"
        )
    if len(files) > MOST_FILES:
        raise RequestTooLargeError(
            f"{len(files)} files of {place!r} are meant; at most {MOST_FILES} are fetched: name "
            "fewer.",
            param="files",
        )
    for file in files:
        if file.num_bytes > LIMITS.upload_bytes:
            raise RequestTooLargeError(
                f"{file.name!r} has {file.num_bytes} bytes; a file may have {LIMITS.upload_bytes}.",
                param="files",
            )
