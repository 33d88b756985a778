"""Prepared inputs with a target each, as every one-pass learner holds them.

Shape letters, this file only:
    B = rows    L = outputs
"""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from purvey.train.chance import permutation

_EVAL_ROWS = 256

N = TypeVar("N", np.int64, np.float64)
"""Label numbers, or scores."""


class Examples(Protocol):
    """A model's inputs, prepared once, to be collated batch by batch."""

    def __len__(self) -> int:
        """Rows there are."""
        ...

    def logits(self, rows: Sequence[int]) -> Tensor:
        """Return `logits_BL` in float32 of some rows, with the graph where gradients are on."""
        ...


class ExamplesLearner(Generic[N]):
    """The part of a `Learner` that does not depend on what is learned.

    Args:
        module: The network.
        examples: Training inputs.
        targets: What each is to give.
        validation: Inputs to evaluate on; may be empty.
        validation_targets: What each is to give.
        seed: Of the order.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        examples: Examples,
        targets: NDArray[N],
        validation: Examples,
        validation_targets: NDArray[N],
        seed: int,
    ) -> None:
        assert len(examples) == len(targets), "examples and targets are not aligned"
        assert len(validation) == len(validation_targets), "validation rows are not aligned"
        self._module, self._examples, self._validation = module, examples, validation
        self._targets: NDArray[N] = targets
        self._validation_targets: NDArray[N] = validation_targets
        self._seed = seed

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


@torch.no_grad()
def predict(module: nn.Module, examples: Examples) -> NDArray[np.float64]:
    """Return the logits of all rows (`rows x labels`), leaving the module in evaluation mode."""
    module.eval()
    parts = [
        examples.logits(range(start, min(start + _EVAL_ROWS, len(examples)))).double().numpy()
        for start in range(0, len(examples), _EVAL_ROWS)
    ]
    return np.concatenate(parts)
