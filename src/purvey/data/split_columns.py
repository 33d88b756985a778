"""The column that a split goes by: read from the files, whether or not it is learned from."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TypeVar

from purvey.data.reading.table import Cell, RawTable
from purvey.errors import InvalidValueError

_Read = TypeVar("_Read", str, float)
_SLASHED = re.compile(r"^(\d{4})[/.](\d{1,2})[/.](\d{1,2})(?=$|[T ])")


class _UnfitError(ValueError):
    """A cell cannot be used; the message continues "column 'x' ..."."""


def read_owners(tables: Sequence[RawTable], name: str) -> list[str]:
    """Return what holds each row's group together, as text.

    Raises:
        InvalidValueError: The files have no such column.
        InvalidFileError: Names the lines where it is empty.
    """
    return _read(tables, name, _owner, param="splits.group")


def read_times(tables: Sequence[RawTable], name: str) -> list[float]:
    """Return each row's time: a number as it is, a date in seconds since 1970.

    Raises:
        InvalidValueError: The files have no such column, or it holds both numbers and dates.
        InvalidFileError: Names the lines that hold neither.
    """
    times = _read(tables, name, _time, param="splits.time")
    cells = (cell for table in tables for cell in table.columns[name])
    if len({_as_number(cell) is None for cell in cells}) > 1:
        raise InvalidValueError(
            f"column {name!r} holds numbers in some rows and dates in others: write all one way.",
            param="splits.time",
        )
    return times


def _read(
    tables: Sequence[RawTable], name: str, convert: Callable[[Cell], _Read], *, param: str
) -> list[_Read]:
    names = list(tables[0].columns)
    if name not in names:
        nearest = get_close_matches(name, names, n=1)
        meant = f" Did you mean {nearest[0]!r}?" if nearest else f" They have {names}."
        raise InvalidValueError(f"the files have no column {name!r}.{meant}", param=param)
    values: list[_Read] = []
    for table in tables:
        problems = table.problems()
        for row, cell in enumerate(table.columns[name]):
            try:
                values.append(convert(cell))
            except _UnfitError as error:
                table.note(problems, row, f"column {name!r} {error}")
        problems.check()
    return values


def _owner(cell: Cell) -> str:
    text = "" if cell is None else str(cell).strip()
    if not text or not isinstance(cell, str | int | float):
        msg = "names no group: give it a text or a number, or drop the row"
        raise _UnfitError(msg)
    return text


def _time(cell: Cell) -> float:
    number = _as_number(cell)
    if number is not None and math.isfinite(number):
        return number
    try:
        text = _SLASHED.sub(_dashed, str(cell).strip())
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        msg = "is no time: give a number or a date such as 2026-01-31, or drop the row"
        raise _UnfitError(msg) from None


def _dashed(found: re.Match[str]) -> str:
    year, month, day = found.groups()
    return f"{year}-{int(month):02}-{int(day):02}"


def _as_number(cell: Cell) -> float | None:
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None
