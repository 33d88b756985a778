"""Leaks between splits: what a test or validation row asks that another split holds too.

Splits keep rows on one side that are alike as a whole. A row of several contents may still share
one of them, an image asked about twice, with a row on the other side.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from purvey.data.dedupe import Likeness

_PAIRS = (("validation", "train"), ("test", "train"), ("test", "validation"))


class Leak(TypedDict):
    """Rows of a split whose value in a column another split holds.

    `near` counts those with a near value, the equal ones among them.
    """

    column: str
    split: str
    held_by: str
    exact: int
    near: int


def find_leaks(contents: Sequence[Likeness], rows: Mapping[str, Sequence[int]]) -> list[Leak]:
    """Compare every two splits by each content column; only what leaks is returned."""
    found: list[Leak] = []
    for column in contents:
        for split, other in _PAIRS:
            exact = _shared(column.exact, rows[split], rows[other])
            near = _shared(column.near, rows[split], rows[other])
            if near:
                leak = Leak(column=column.name, split=split, held_by=other, exact=exact, near=near)
                found.append(leak)
    return found


def _shared(values: Sequence[bytes], mine: Sequence[int], others: Sequence[int]) -> int:
    held = {values[row] for row in others}
    return sum(values[row] in held for row in mine)
