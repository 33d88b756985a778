"""Test report of a regression: errors with intervals, beside those of always saying the mean.

Shape letters, this file only:
    S = resamples    B = rows
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from purvey.evaluate.bootstrap import Bootstrap, row_interval
from purvey.evaluate.metrics import Floats, Ints
from purvey.evaluate.slices import Slice, sliced


def regression_report(
    predicted_B: Floats,
    wanted_B: Floats,
    *,
    baseline: float,
    how: Bootstrap,
    slices: Sequence[Slice] = (),
) -> dict[str, Any]:
    """Report on the scores of the untouched test rows.

    Args:
        predicted_B: What the model says, in the score's own unit.
        wanted_B: The true scores, at least one.
        baseline: The mean of the training scores: what one says without looking at the inputs.
        how: Bootstrap settings.
        slices: Rows whose `mae` is reported beside that of all.

    Returns:
        `mae` and `rmse`, also as `baseline_mae` and `baseline_rmse`, in the score's unit; `r2`,
        where there are two rows: the share of the variance that is explained, 1 at best.
    """
    num_rows, errors_B, blind_B = len(wanted_B), predicted_B - wanted_B, baseline - wanted_B

    def r2(rows_SB: Ints) -> Floats:
        return _r2(errors_B[rows_SB], wanted_B[rows_SB])

    report = {
        "mae": row_interval(num_rows, lambda rows: _mean(np.abs(errors_B), rows), how),
        "rmse": row_interval(num_rows, lambda rows: np.sqrt(_mean(errors_B**2, rows)), how),
        "r2": row_interval(num_rows, r2, how),
        "baseline_mae": row_interval(num_rows, lambda rows: _mean(np.abs(blind_B), rows), how),
        "baseline_rmse": row_interval(num_rows, lambda rows: np.sqrt(_mean(blind_B**2, rows)), how),
    }
    if num_rows < 2:
        del report["r2"]
    told: dict[str, Any] = {name: estimate.as_json() for name, estimate in report.items()}
    if slices:
        told["slices"] = sliced(slices, "mae", np.abs(errors_B), np.ones(num_rows), how)
    return told


def _mean(values_B: Floats, rows_SB: Ints) -> Floats:
    means_S: Floats = values_B[rows_SB].mean(axis=1)
    return means_S


def _r2(errors_SB: Floats, wanted_SB: Floats) -> Floats:
    """Return `1 - residual / total` sums of squares; where all scores are equal, 1 or 0."""
    residual_S = (errors_SB**2).sum(axis=1)
    total_S = ((wanted_SB - wanted_SB.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    explained_S: Floats = 1 - residual_S / np.where(total_S > 0, total_S, 1)
    return np.where(total_S > 0, explained_S, (residual_S == 0).astype(np.float64))
