"""What the loop needs of a task: rows to visit, a loss, an evaluation."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

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


class Together(Protocol):
    """Processes that compute one step; all of them call everything in the same order."""

    @property
    def is_first(self) -> bool:
        """Whether this one draws for all."""
        ...

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, in place."""
        ...


@runtime_checkable
class Comparing(Protocol):
    """A learner that compares the rows of a step with one another."""

    def survey(
        self, rows: Sequence[int], shares: Sequence[Sequence[int]], together: Together
    ) -> None:
        """See the whole of a step that is divided, before the loss of its first share.

        Args:
            rows: Of the step.
            shares: How this process divides those that are its own; may be none.
            together: Those that compute the others.
        """
        ...
