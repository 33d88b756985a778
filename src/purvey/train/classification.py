"""Learning to classify: prepared inputs, labels, mean cross-entropy.

Shape letters, this file only:
    B = rows    L = labels
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from purvey.train.chance import permutation
from purvey.train.early_stopping import Validation
from purvey.train.step import BatchLoss

_EVAL_ROWS = 256

Measure = Callable[[NDArray[np.float64], NDArray[np.int64]], dict[str, float]]
"""Logits and targets to metrics by name; `macro_f1` is what the best weights are chosen by."""


class Examples(Protocol):
    """A classifier's inputs, prepared once, to be collated batch by batch."""

    def __len__(self) -> int:
        """Rows there are."""
        ...

    def logits(self, rows: Sequence[int]) -> Tensor:
        """Return `logits_BL` in float32 of some rows, with the graph where gradients are on."""
        ...


class ClassifierLearner:
    """A classifier with the rows it learns from.

    Args:
        module: Its network.
        examples: Training inputs.
        targets: Their label numbers.
        validation: Inputs to evaluate on; may be empty.
        validation_targets: Their label numbers.
        measure: Metrics of validation logits.
        seed: Of the order.
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
    ) -> None:
        assert len(examples) == len(targets), "examples and targets are not aligned"
        assert len(validation) == len(validation_targets), "validation rows are not aligned"
        self._module, self._examples, self._targets = module, examples, targets
        self._validation, self._validation_targets = validation, validation_targets
        self._measure, self._seed = measure, seed

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self._module

    @property
    def num_rows(self) -> int:
        """Training rows."""
        return len(self._examples)

    def order(self, epoch: int) -> Sequence[int]:
        """Shuffle."""
        order: list[int] = permutation(self.num_rows, seed=self._seed, epoch=epoch).tolist()
        return order

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute the mean cross-entropy of some rows."""
        logits_BL = self._examples.logits(rows)
        targets_B = torch.from_numpy(self._targets[list(rows)])
        return BatchLoss(loss=cross_entropy(logits_BL, targets_B), num_rows=len(rows))

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


@torch.no_grad()
def predict(module: nn.Module, examples: Examples) -> NDArray[np.float64]:
    """Return the logits of all rows (`rows x labels`), leaving the module in evaluation mode."""
    module.eval()
    parts = [
        examples.logits(range(start, min(start + _EVAL_ROWS, len(examples)))).double().numpy()
        for start in range(0, len(examples), _EVAL_ROWS)
    ]
    return np.concatenate(parts)
