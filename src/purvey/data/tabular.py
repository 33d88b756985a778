"""Columns of tables: what is a score to learn, and what is one of a few categories.

Both are told conservatively. A score has a telling name, and there is nothing else to learn. A
category has few, short values that come again and again, stands beside a label and another input,
and no column of the table is free text.
"""

from collections.abc import Mapping, Sequence

from purvey.contracts.data import ColumnKind
from purvey.data.reading.names import SCORE_NAMES, TEXT_NAMES, plain_name
from purvey.data.reading.table import Cell

_MOST_CATEGORIES, _LONGEST_CATEGORY_CHARS = 50, 32
_LEAST_ROWS_EACH = 5
_MOST_WHOLE_LABELS = 200


def score_column(names: Sequence[str], kinds: Mapping[str, ColumnKind]) -> str | None:
    """Return the only number that is called a score, where there are other columns."""
    found = [n for n in names if kinds[n] == "number" and plain_name(n) in SCORE_NAMES]
    return found[0] if len(found) == 1 and len(names) > 1 else None


def category_columns(
    columns: Mapping[str, Sequence[Cell]], kinds: Mapping[str, ColumnKind], *, inputs: Sequence[str]
) -> list[str]:
    """Return the inputs among the texts that are categories: all of the texts, or none."""
    texts = [name for name in inputs if kinds[name] == "text"]
    if len(inputs) < 2 or not all(_is_category(name, columns[name]) for name in texts):
        return []
    return texts


def is_measured(cells: Sequence[Cell]) -> bool:
    """Tell numbers that measure something, fractions or hardly one twice, from those that name."""
    numbers = [float(cell) for cell in cells if isinstance(cell, str | int | float) and cell != ""]
    if any(not number.is_integer() for number in numbers):
        return True
    num_distinct = len(set(numbers))
    return num_distinct > _MOST_WHOLE_LABELS and num_distinct > len(numbers) / 2


def _is_category(name: str, cells: Sequence[Cell]) -> bool:
    values = {str(cell).strip() for cell in cells}
    return (
        plain_name(name) not in TEXT_NAMES
        and len(values) <= min(_MOST_CATEGORIES, len(cells) // _LEAST_ROWS_EACH)
        and all(0 < len(value) <= _LONGEST_CATEGORY_CHARS for value in values)
    )
