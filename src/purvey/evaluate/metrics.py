"""Classification metrics from counted outcomes.

Shape letters, this file only:
    K = distinct (target, prediction) pairs that occurred    S = samples of counts    L = labels
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """How often each (target, prediction) pair occurred; what every metric here is a function of.

    Args:
        targets: True label of each pair that occurred.
        predictions: Predicted label of each pair.
        counts: Rows with that pair.
        num_labels: Labels of the model; `targets` and `predictions` are below it.
    """

    targets: Ints
    predictions: Ints
    counts: Ints
    num_labels: int

    @property
    def num_rows(self) -> int:
        """Rows counted."""
        return int(self.counts.sum())


def count_outcomes(targets: Ints, predictions: Ints, *, num_labels: int) -> Outcomes:
    """Count the pairs of aligned targets and predictions."""
    assert targets.shape == predictions.shape, "targets and predictions are not aligned"
    pairs, counts = np.unique(targets * num_labels + predictions, return_counts=True)
    return Outcomes(
        targets=pairs // num_labels,
        predictions=pairs % num_labels,
        counts=counts.astype(np.int64),
        num_labels=num_labels,
    )


def accuracy(outcomes: Outcomes, counts_SK: Ints) -> Floats:
    """Return the share of right answers in [0, 1] under each row of counts."""
    is_right_K = outcomes.targets == outcomes.predictions
    shares_S: Floats = counts_SK[:, is_right_K].sum(axis=1) / counts_SK.sum(axis=1)
    return shares_S


def macro_f1(outcomes: Outcomes, counts_SK: Ints) -> Floats:
    """Return the mean F1 in [0, 1] over labels that occur as target or prediction."""
    f1_SL, occurs_SL = _f1(outcomes, counts_SK)
    means_S: Floats = f1_SL.sum(axis=1) / np.maximum(1, occurs_SL.sum(axis=1))
    return means_S


def label_f1(outcomes: Outcomes, counts_SK: Ints, label: int) -> Floats:
    """Return one label's F1 in [0, 1]; 0 where it neither occurs nor is predicted."""
    f1_SL, _ = _f1(outcomes, counts_SK)
    scores_S: Floats = f1_SL[:, label]
    return scores_S


def precision_recall(outcomes: Outcomes) -> tuple[Floats, Floats, Ints]:
    """Return precision, recall (0 where undefined) and rows by label."""
    counts_1K = outcomes.counts[None, :]
    right_1L, predicted_1L, true_1L = _totals(outcomes, counts_1K)
    precision = right_1L[0] / np.maximum(1, predicted_1L[0])
    recall = right_1L[0] / np.maximum(1, true_1L[0])
    return precision, recall, true_1L[0].astype(np.int64)


def confusion_matrix(outcomes: Outcomes) -> Ints:
    """Return counts by (target, prediction), `L x L`."""
    matrix = np.zeros((outcomes.num_labels, outcomes.num_labels), dtype=np.int64)
    matrix[outcomes.targets, outcomes.predictions] = outcomes.counts
    return matrix


def _f1(outcomes: Outcomes, counts_SK: Ints) -> tuple[Floats, NDArray[np.bool_]]:
    right_SL, predicted_SL, true_SL = _totals(outcomes, counts_SK)
    occurs_SL = (predicted_SL + true_SL) > 0
    f1_SL = 2 * right_SL / np.maximum(1, predicted_SL + true_SL)
    return f1_SL, occurs_SL


def _totals(outcomes: Outcomes, counts_SK: Ints) -> tuple[Floats, Floats, Floats]:
    """Return right, predicted and true rows by label, under each row of counts."""
    size, is_right_K = outcomes.num_labels, outcomes.targets == outcomes.predictions
    right_SL = _by_label(outcomes.targets[is_right_K], counts_SK[:, is_right_K], size)
    predicted_SL = _by_label(outcomes.predictions, counts_SK, size)
    return right_SL, predicted_SL, _by_label(outcomes.targets, counts_SK, size)


def _by_label(labels_K: Ints, counts_SK: Ints, num_labels: int) -> Floats:
    """Sum the counts of each label, `S x L`; never builds a table of `K x L`."""
    totals_SL = np.zeros((len(counts_SK), num_labels))
    order_K = np.argsort(labels_K, kind="stable")
    found, starts = np.unique(labels_K[order_K], return_index=True)
    if len(found):
        totals_SL[:, found] = np.add.reduceat(counts_SK[:, order_K], starts, axis=1)
    return totals_SL
