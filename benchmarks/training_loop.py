"""The product's loop as a subject: it takes a step when one is wanted, and tells of it."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from torch import nn

from benchmarks.blocks import Blocks
from purvey.contracts.clock import SystemClock
from purvey.contracts.jobs import CheckpointSaved
from purvey.contracts.recipe import parse_recipe
from purvey.train.early_stopping import Validation
from purvey.train.learner import Learner
from purvey.train.parallel.heap import keep_blocks
from purvey.train.step import BatchLoss
from purvey.train.trainer import Trainer


class Noted:
    """A learner whose last loss is kept.

    Args:
        learner: Does the work.
        is_in_order: Visit rows in the order in which they are given.
    """

    last: BatchLoss

    def __init__(self, learner: Learner, *, is_in_order: bool = False) -> None:
        self._learner, self._is_in_order = learner, is_in_order

    @property
    def module(self) -> nn.Module:
        """The learner's."""
        return self._learner.module

    @property
    def num_rows(self) -> int:
        """The learner's."""
        return self._learner.num_rows

    def order(self, epoch: int) -> Sequence[int]:
        """Return the learner's order, or none."""
        return range(self.num_rows) if self._is_in_order else self._learner.order(epoch)

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute, and keep."""
        self.last = self._learner.loss(rows)
        return self.last

    def validate(self) -> Validation | None:
        """Evaluate as the learner does."""
        return self._learner.validate()


class Told:
    """Hears the loop at every step, and lets it go on when one is wanted.

    Args:
        blocks: Who asks for steps.
        learner: Tells how the last one went.
        unit: What is counted.
    """

    def __init__(self, blocks: Blocks, learner: Noted, unit: Literal["rows", "tokens"]) -> None:
        self._blocks, self._learner, self._unit = blocks, learner, unit
        self._has_begun = False

    @property
    def stop_requested(self) -> Literal["cancel"] | None:
        """Never stop; wait for the next request instead."""
        if self._has_begun:
            last = self._learner.last
            units = last.num_rows if self._unit == "rows" else last.num_tokens
            self._blocks.done(units=units, loss=float(last.loss.detach()))
        self._has_begun = True
        self._blocks.wait()
        return None

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        """Pass over."""

    def checkpoint(self, saved: CheckpointSaved) -> None:
        """Pass over."""


def train(
    learner: Noted, recipe: dict[str, Any], work: Path, *, unit: Literal["rows", "tokens"]
) -> None:
    """Train through the product's loop until the input ends; no checkpoint falls due.

    Args:
        learner: With its rows.
        recipe: `task`, `optimizer` and section `train`; the rate stays as it is.
        work: Folder of checkpoints.
        unit: What is counted.
    """
    keep_blocks()  # as a job does
    loop = {"epochs": 1_000, "checkpoint_interval_s": 86_400} | recipe["train"]
    schedule = {"name": "constant", "warmup_fraction": 0.0}
    trainer = Trainer(
        learner,
        parse_recipe(recipe | {"schedule": schedule, "train": loop}),
        progress=Told(Blocks(), learner, unit),
        clock=SystemClock(),
        checkpoints=work,
        run_digest="bench",
        watch=nullcontext,
    )
    trainer.run()
