"""Learning to classify: prepared inputs, labels, mean cross-entropy.

Shape letters, this file only:
    B = rows    L = labels
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from purvey.train.early_stopping import Validation
from purvey.train.examples import Examples, ExamplesLearner, predict
from purvey.train.step import BatchLoss

Measure = Callable[[NDArray[np.float64], NDArray[np.int64]], dict[str, float]]
"""Logits and targets to metrics by name; `macro_f1` is what the best weights are chosen by."""


@dataclass(frozen=True, kw_only=True)
class LossShape:
    """What training does to the cross-entropy.

    Args:
        label_weights: `weights_L`, the weight of a row by its label (float32); None weighs all
            alike. The mean divides by the weights.
        smoothing: Share of each target's weight that is spread evenly over the labels
            (Szegedy et al. 2016, section 7), in [0, 1).
    """

    label_weights: Tensor | None = None
    smoothing: float = 0.0


def balanced_weights(targets: NDArray[np.int64], *, num_labels: int) -> Tensor:
    """Return `weights_L` with which each label that occurs counts the same; their mean row is 1."""
    counts = np.bincount(targets, minlength=num_labels)
    weights = len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(np.where(counts > 0, weights, 0.0)).float()


class ClassifierLearner(ExamplesLearner[np.int64]):
    """A classifier with the rows it learns from.

    Args:
        module: Its network.
        examples: Training inputs.
        targets: Their label numbers.
        validation: Inputs to evaluate on; may be empty.
        validation_targets: Their label numbers.
        measure: Metrics of validation logits.
        seed: Of the order.
        loss_shape: What training does to the cross-entropy; validation leaves it as it is.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        examples: Examples,
        targets: NDArray[np.int64],
        validation: Examples,
        validation_targets: NDArray[np.int64],
        measure: Measure,
        seed: int,
        loss_shape: LossShape | None = None,
    ) -> None:
        super().__init__(
            module,
            examples=examples,
            targets=targets,
            validation=validation,
            validation_targets=validation_targets,
            seed=seed,
        )
        self._measure = measure
        self._shape = loss_shape or LossShape()

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute the mean cross-entropy of some rows."""
        logits_BL = self._examples.logits(rows)
        targets_B = torch.from_numpy(self._targets[list(rows)])
        weights_L = self._shape.label_weights
        smoothing = self._shape.smoothing
        loss = cross_entropy(logits_BL, targets_B, weight=weights_L, label_smoothing=smoothing)
        weight = None if weights_L is None else float(weights_L[targets_B].sum())
        return BatchLoss(loss=loss, num_rows=len(rows), weight=weight)

    def validate(self) -> Validation | None:
        """Evaluate on the validation rows."""
        if not len(self._validation):
            return None
        logits_BL = predict(self._module, self._validation)
        targets_B = self._validation_targets
        loss = float(cross_entropy(torch.from_numpy(logits_BL), torch.from_numpy(targets_B)))
        metrics = self._measure(logits_BL, targets_B)
        return Validation(
            score=metrics["macro_f1"], loss=loss, metrics={"valid_loss": loss, **metrics}
        )
