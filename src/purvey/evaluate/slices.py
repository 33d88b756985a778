"""Slices of the test rows: does the model do as well on each kind of input as on all of them?

Shape letters, this file only:
    B = rows    R = rows of a slice
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from purvey.evaluate.bootstrap import Bootstrap, row_interval
from purvey.evaluate.metrics import Floats, Ints

_MOST_VALUES = 8
"""Values of a category that get a slice of their own, the most common ones; the rest share one."""
_FEWEST_ROWS = 8
"""Fewer rows than this are not divided by length."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Test rows that have something in common: `rows_R` are their numbers, at least one."""

    column: str
    value: str
    rows: Ints


def category_slices(column: str, values: Sequence[str]) -> list[Slice]:
    """Divide rows by the values of a column, most common first; none where all are the same."""
    counted = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    if len(counted) < 2:
        return []
    own = [value for value, _ in counted[:_MOST_VALUES]]
    values_B = np.array(values, dtype=object)
    slices = [Slice(column=column, value=v, rows=np.flatnonzero(values_B == v)) for v in own]
    rest = np.array([row for row, value in enumerate(values) if value not in own], dtype=np.int64)
    if len(rest):
        slices.append(Slice(column=column, value="all other values", rows=rest))
    return slices


def length_slices(column: str, lengths: Sequence[float], *, unit: str) -> list[Slice]:
    """Divide rows into quarters by length, shortest first; rows of one length stay together."""
    if len(lengths) < _FEWEST_ROWS or min(lengths) == max(lengths):
        return []
    lengths_B = np.asarray(lengths, dtype=np.float64)
    edges = np.unique(np.quantile(lengths_B, [0.25, 0.5, 0.75], method="inverted_cdf"))
    quarters_B = np.searchsorted(edges, lengths_B, side="left")
    groups = [np.flatnonzero(quarters_B == quarter) for quarter in np.unique(quarters_B)]
    return [Slice(column=column, value=_span(lengths_B[rows], unit), rows=rows) for rows in groups]


def sliced(
    slices: Sequence[Slice], metric: str, amounts_B: Floats, units_B: Floats, how: Bootstrap
) -> list[dict[str, Any]]:
    """Report `sum(amounts) / sum(units)` of each slice, with its interval, under `metric`.

    Args:
        slices: Rows of each.
        metric: What the quotient is called.
        amounts_B: Of each test row: 1 where the answer is right, edits, nats, ...
        units_B: What they are counted by, above 0: 1, words, tokens, ...
        how: Bootstrap settings.
    """
    report = []
    for one in slices:
        amounts_R, units_R = amounts_B[one.rows], units_B[one.rows]

        def quotient(rows: Ints, amounts: Floats = amounts_R, units: Floats = units_R) -> Floats:
            return np.asarray(amounts[rows].sum(axis=1) / units[rows].sum(axis=1))

        estimate = row_interval(len(one.rows), quotient, how).as_json()
        named = {"column": one.column, "value": one.value, "num_rows": len(one.rows)}
        report.append({**named, metric: estimate})
    return report


def _span(lengths_R: Floats, unit: str) -> str:
    shortest, longest = f"{lengths_R.min():.4g}", f"{lengths_R.max():.4g}"
    span = shortest if shortest == longest else f"{shortest} to {longest}"
    return f"{span} {unit}"
