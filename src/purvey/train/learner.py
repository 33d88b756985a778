"""What the loop needs of a task: rows to visit, a loss, an evaluation."""

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from purvey.train.early_stopping import Validation
from purvey.train.step import BatchLoss


class Learner(Protocol):
    """A module with the rows it learns from."""

    @property
    def module(self) -> nn.Module:
        """What is trained; parameters without a gradient stay as they are."""
        ...

    @property
    def num_rows(self) -> int:
        """Training rows (or packed sequences) of one epoch."""
        ...

    def order(self, epoch: int) -> Sequence[int]:
        """Return the order of rows in an epoch; the same for the same epoch, always."""
        ...

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute the mean loss of some rows, with its graph."""
        ...

    def validate(self) -> Validation | None:
        """Evaluate on the validation split without a graph; None where there is none."""
        ...
