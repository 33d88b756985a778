"""Learning a score: prepared inputs, standardised targets, squared or Huber loss.

Shape letters, this file only:
    B = rows
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import huber_loss, mse_loss

from purvey.contracts.recipe_parts.regression import RegressionConfig
from purvey.train.chance import permutation
from purvey.train.classification import Examples, predict
from purvey.train.early_stopping import Validation
from purvey.train.step import BatchLoss


class RegressionLearner:
    """A network of one output with the rows it learns from.

    Args:
        module: The network.
        examples: Training inputs.
        targets: Their scores, in deviations from the mean.
        validation: Inputs to evaluate on; may be empty.
        validation_targets: Their scores, likewise.
        deviation: What one deviation is, for errors in the score's own unit.
        config: The loss.
        seed: Of the order.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        examples: Examples,
        targets: NDArray[np.float64],
        validation: Examples,
        validation_targets: NDArray[np.float64],
        deviation: float,
        config: RegressionConfig,
        seed: int,
    ) -> None:
        assert len(examples) == len(targets), "examples and targets are not aligned"
        assert len(validation) == len(validation_targets), "validation rows are not aligned"
        self._module, self._examples, self._targets = module, examples, targets
        self._validation, self._validation_targets = validation, validation_targets
        self._deviation, self._config, self._seed = deviation, config, seed

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
        """Compute the mean loss of some rows."""
        predicted_B = self._examples.logits(rows)[:, 0]
        wanted_B = torch.from_numpy(self._targets[list(rows)]).float()
        return BatchLoss(loss=score_loss(predicted_B, wanted_B, self._config), num_rows=len(rows))

    def validate(self) -> Validation | None:
        """Evaluate on the validation rows; what counts is the mean absolute error."""
        if not len(self._validation):
            return None
        predicted_B = predict(self._module, self._validation)[:, 0]
        wanted_B = self._validation_targets
        tensors = torch.from_numpy(predicted_B), torch.from_numpy(wanted_B)
        loss = float(score_loss(*tensors, self._config))
        mae = float(np.abs(predicted_B - wanted_B).mean()) * self._deviation
        return Validation(score=-mae, loss=loss, metrics={"valid_loss": loss, "mae": mae})


def score_loss(predicted_B: Tensor, wanted_B: Tensor, config: RegressionConfig) -> Tensor:
    """Return the mean of half the squared error, linear beyond `huber_delta` for Huber."""
    if config.loss == "squared":
        return mse_loss(predicted_B, wanted_B) / 2
    return huber_loss(predicted_B, wanted_B, delta=config.huber_delta)
