"""What the loop asks of the ranks of a run; `Alone` is the whole answer for a single process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from purvey.contracts.recipe_parts.looping import LoopConfig
from purvey.train.checkpoint import Snapshot
from purvey.train.early_stopping import Validation
from purvey.train.learner import Comparing, Learner
from purvey.train.placing import kind_of
from purvey.train.saving.writer import CheckpointWriter
from purvey.train.step import BatchLoss, Joining, Single


@dataclass(frozen=True, kw_only=True)
class Portion:
    """Rows that a rank computes at once.

    Args:
        rows: At least one.
        is_counted: Whether they are this rank's; else they stand in for none, with weight 0, so
            that all ranks do as many passes.
    """

    rows: Sequence[int]
    is_counted: bool = True


class Team(Joining, Protocol):
    """One step by several ranks. All of them call everything in the same order."""

    @property
    def own(self) -> nn.Module:
        """The module with this rank's part of every weight, which its optimizer moves."""
        ...

    @property
    def chance(self) -> tuple[str | int, ...]:
        """What the seed of a step is extended by, where ranks must not draw alike."""
        ...

    def portions(self, rows: Sequence[int], *, at_once: int) -> Iterator[Portion]:
        """Divide a step's rows; yield this rank's share, `at_once` rows at most at a time."""
        ...

    def survey(self, rows: Sequence[int], portions: Sequence[Portion]) -> None:
        """Show a divided step to a learner that compares its rows, before the first loss."""
        ...

    def loss(self, portion: Portion) -> BatchLoss:
        """Compute the mean loss of a portion, with its graph."""
        ...

    def validate(self) -> Validation | None:
        """Evaluate on the validation split; the same on every rank."""
        ...

    def agreed(self, claim: object) -> bool:
        """Return whether the first rank's claim is true."""
        ...

    def save(self, live: Snapshot, writer: CheckpointWriter) -> None:
        """Have a checkpoint written; `live` may change as soon as this returns."""
        ...

    def part(self, whole: Snapshot) -> Snapshot:
        """Return this rank's part of a checkpoint of any number of ranks."""
        ...

    def finish(self) -> None:
        """Leave a whole module with the weights of `own` on the first rank."""
        ...


class Alone(Single):
    """A single process.

    Args:
        learner: What is trained.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    @property
    def own(self) -> nn.Module:
        """The learner's module."""
        return self.learner.module

    @property
    def chance(self) -> tuple[str | int, ...]:
        """Nothing."""
        return ()

    def portions(self, rows: Sequence[int], *, at_once: int) -> Iterator[Portion]:
        """Yield the rows in their order."""
        for start in range(0, len(rows), at_once):
            yield Portion(rows=rows[start : start + at_once])

    def survey(self, rows: Sequence[int], portions: Sequence[Portion]) -> None:
        """Show a step of several portions."""
        if len(portions) > 1 and isinstance(self.learner, Comparing):
            self.learner.survey(rows, [portion.rows for portion in portions], _ALONE)

    def loss(self, portion: Portion) -> BatchLoss:
        """Compute the mean loss of a portion."""
        batch = self.learner.loss(portion.rows)
        if portion.is_counted:
            return batch
        return replace(batch, num_rows=0, num_tokens=0, weight=0.0)

    def validate(self) -> Validation | None:
        """Evaluate."""
        return self.learner.validate()

    def agreed(self, claim: object) -> bool:
        """Return it."""
        return bool(claim)

    def save(self, live: Snapshot, writer: CheckpointWriter) -> None:
        """Begin to write it."""
        writer.begin(live)

    def part(self, whole: Snapshot) -> Snapshot:
        """Return it."""
        return whole

    def finish(self) -> None:
        """Do nothing: the module is whole."""


def batches(team: Team, rows: Sequence[int], loop: LoopConfig) -> Iterator[BatchLoss]:
    """Compute a step's rows, as many at once as the recipe says.

    Args:
        team: The ranks.
        rows: Of the step.
        loop: Section `train` of the recipe.
    """
    portions = list(team.portions(rows, at_once=loop.micro_batch_size or len(rows)))
    kind = kind_of(next(team.own.parameters()))
    with _precision(loop, kind):
        team.survey(rows, portions)
    for portion in portions:
        with _precision(loop, kind):
            batch = team.loss(portion)
        yield batch


def _precision(loop: LoopConfig, kind: str) -> torch.autocast:
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=loop.precision == "bf16")


class _Solo:
    """A process that computes all rows itself."""

    is_first = True

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Do nothing."""


_ALONE = _Solo()
