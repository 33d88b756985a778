"""A table as read from a file: untyped cells by column, with the line each row came from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from purvey.contracts.files.problems import Problems
from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidFileError

Cell = str | int | float | bool | bytes | list[object] | dict[str, object] | None


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """Cells by column, in file order.

    Invariant: every column is as long as `lines`.

    Args:
        source: Name of the file, for messages.
        columns: Cells by column name, in the file's order of columns.
        lines: For each row, the 1-based line (or entry) it came from.
        row_word: What `lines` counts: `line`, `row` or `entry`.
        entries: For each row, the name of the archive's entry that it needs; empty elsewhere.
        details: What the reader found out (`format`, `delimiter`, `has_header`).
    """

    source: str
    columns: dict[str, list[Cell]]
    lines: Sequence[int]
    row_word: str = "line"
    entries: Sequence[str] = ()
    details: dict[str, str | bool] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Rows in the table."""
        return len(self.lines)

    def problems(self) -> Problems:
        """Return a list for what is wrong with this table's rows, empty."""
        return Problems(source=self.source, word=self.row_word)

    def note(self, problems: Problems, row: int, problem: str) -> None:
        """Add a problem of one row, without its full stop."""
        entry = self.entries[row] if self.entries else ""
        problems.add(self.lines[row], problem, entry=entry)


def row_error(source: str, line: int, problem: str) -> InvalidFileError:
    """Build the error for a line that ends the reading: what is wrong, what to change."""
    return InvalidFileError(f"{source!r}, line {line}: {problem}", param=f"line {line}")


def check_row_count(source: str, num_rows: int) -> None:
    """Refuse a file with no rows, or with more than a dataset may hold.

    Raises:
        InvalidFileError: The count is 0 or above `LIMITS.dataset_rows`.
    """
    if num_rows == 0:
        raise InvalidFileError(f"{source!r} holds no rows: add at least one.")
    if num_rows > LIMITS.dataset_rows:
        raise InvalidFileError(f"{source!r} has more than {LIMITS.dataset_rows} rows: split it.")


def check_column_count(source: str, num_columns: int) -> None:
    """Refuse a file with more columns than a dataset may have.

    Raises:
        InvalidFileError: The count is above `LIMITS.dataset_columns`.
    """
    if num_columns > LIMITS.dataset_columns:
        raise InvalidFileError(f"{source!r} has more than {LIMITS.dataset_columns} columns.")
