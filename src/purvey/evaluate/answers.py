"""How often a model that writes answers writes the right one.

Shape letters, this file only:
    N = rows
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from purvey.evaluate.bootstrap import Bootstrap, row_interval
from purvey.evaluate.metrics import Floats, Ints
from purvey.evaluate.reports import TextLosses
from purvey.evaluate.slices import Slice, sliced


def answer_report(
    losses: TextLosses, is_right_N: Floats, how: Bootstrap, slices: Sequence[Slice] = ()
) -> dict[str, Any]:
    """Report the share of untouched rows that are answered right, and the loss per token.

    Args:
        losses: Of the rows' answers; at least one row.
        is_right_N: 1 where the answer is the expected one, else 0.
        how: Bootstrap settings.
        slices: Rows whose share is reported beside that of all.
    """

    def mean_loss(rows: Ints) -> Floats:
        return np.asarray(losses.nats[rows].sum(axis=1) / losses.tokens[rows].sum(axis=1))

    def share(rows: Ints) -> Floats:
        return np.asarray(is_right_N[rows].mean(axis=1))

    num_rows = len(is_right_N)
    report: dict[str, Any] = {  # JSON values
        "exact_match": row_interval(num_rows, share, how).as_json(),
        "loss": row_interval(num_rows, mean_loss, how).as_json(),
    }
    if slices:
        report["slices"] = sliced(slices, "exact_match", is_right_N, np.ones(num_rows), how)
    return report
