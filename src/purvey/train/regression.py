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
from purvey.train.early_stopping import Validation
from purvey.train.examples import Examples, ExamplesLearner, predict
from purvey.train.step import BatchLoss


class RegressionLearner(ExamplesLearner[np.float64]):
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
        super().__init__(
            module,
            examples=examples,
            targets=targets,
            validation=validation,
            validation_targets=validation_targets,
            seed=seed,
        )
        self._deviation, self._config = deviation, config

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
