"""A run up to its first step: on a few rows, its network without numbers or with them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch

from purvey.contracts.jobs import CheckpointSaved, StopReason
from purvey.data.loader import Rows
from purvey.data.sample import load_sample, raw_bytes
from purvey.errors import InvalidValueError, PurveyError
from purvey.models.scaling.mup import AS_IN_BASE, Reaches
from purvey.models.skeleton import without_numbers
from purvey.train.estimating.following import Followed, follow
from purvey.train.estimating.sizes import Sizes, sizes_of
from purvey.train.estimating.trying import Tried, try_steps
from purvey.train.learner import Learner
from purvey.worker.training.run import Built, Taken, TrainingRun, num_threads

_AT_ONCE = 256
"""Rows of a step that are followed or tried at once; more take in proportion."""
_TEXT_ROWS, _MEDIA_ROWS, _BYTES = 4_096, 64, 8 * 2**20
"""A sample is no larger; preparing a row of media takes milliseconds."""
_TEXT_KINDS = frozenset({"text", "label", "number", "category", "score"})
_TESTED_ROWS = 16
_PATIENCE_S = 1.5
_NO_NUMBERS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)
"""What a module raises that needs the numbers it is not given."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A network as it would be trained.

    Args:
        sizes: What its weights take.
        followed: One forward and backward of some rows; None where it needs numbers for it.
        scale: How many times those rows are computed at once.
        step_scale: How many times they make up a step.
        num_rows: Training rows of the whole dataset, or packed sequences.
        complaint: Why it could not be followed.
    """

    sizes: Sizes
    followed: Followed | None
    scale: float
    step_scale: float
    num_rows: int
    complaint: str = ""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Steps that were tried.

    Args:
        tried: How long they took.
        step_scale: How many times their rows make up a step of the run.
        validation_rows: Rows of the evaluation that was tried.
    """

    tried: Tried
    step_scale: float
    validation_rows: int


class Outlined(Exception):  # noqa: N818 (nothing went wrong)
    """Raised where training would begin, of a network without numbers."""

    def __init__(self, found: Outline) -> None:
        super().__init__("outlined")
        self.found = found


class StepsTried(Exception):  # noqa: N818 (nothing went wrong)
    """Raised where training would go on after a few steps."""

    def __init__(self, found: Timed) -> None:
        super().__init__("tried")
        self.found = found


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """Hears what a run tells, and keeps its warnings."""

    warnings: list[str] = field(default_factory=list)
    stop_requested: StopReason | None = None

    def event(
        self, message: str, *, level: Literal["info", "warn", "error"] = "info", **data: object
    ) -> None:
        """Keep a warning, once."""
        if level != "info" and message not in self.warnings:
            self.warnings.append(message)

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        """Do nothing."""

    def checkpoint(self, saved: CheckpointSaved) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal(TrainingRun):
    """A run that ends in `Outlined` or `StepsTried`.

    Args:
        is_outline: Whether the network has no numbers; else steps are tried.
        of_files: Rows by split of a run that learns from files, once they were read.
    """

    is_outline: bool
    of_files: dict[str, int] = field(default_factory=dict)

    @property
    def whole(self) -> Mapping[str, int]:
        """Rows of the run, by split."""
        return self.of_files if self.spec.dataset is None else self.dataset.manifest.rows

    @property
    def sampled(self) -> Mapping[str, int]:
        """Rows that are looked at, by split."""
        if self.spec.dataset is None:
            return {split: min(rows, _most(split)) for split, rows in self.of_files.items()}
        return {split: rows.num_rows for split, rows in self.splits.items()}

    @property
    def raw_bytes(self) -> float:
        """About what all rows take in memory."""
        if self.spec.dataset is None:
            return float(sum(file.num_bytes for file in self.spec.files))
        return sum(
            raw_bytes(rows) * self.whole[split] / max(1, rows.num_rows)
            for split, rows in self.splits.items()
        )

    @cached_property
    def splits(self) -> dict[str, Rows]:
        """Some rows of each split, unverified.

        Raises:
            InvalidValueError: There is nothing to train on.
        """
        kinds = {column.kind for column in self.dataset.manifest.columns}
        is_quick = kinds <= _TEXT_KINDS
        rows = {
            split: load_sample(
                Path(self.dataset.folder),
                split,
                most_rows=_TEXT_ROWS if is_quick and split == "train" else _most(split),
                most_bytes=_BYTES,
            )
            for split in self.dataset.manifest.rows
        }
        if rows["train"].num_rows == 0:
            raise InvalidValueError("the training split is empty.", param="recipe.dataset")
        return rows

    def built(self, build: Callable[[], Built]) -> Built:
        """Return what `build` makes, without numbers unless steps are tried or it needs them."""
        if not self.is_outline:
            return build()
        try:
            return without_numbers(build)
        except PurveyError:
            raise
        except _NO_NUMBERS:
            return build()

    def taken(self, split: str, rows: Sequence[Taken]) -> Sequence[Taken]:
        """Return the first rows of a file, and remember how many there are."""
        self.of_files[split] = len(rows)
        return rows[: _most(split)]

    def train(
        self,
        learner: Learner,
        *,
        code_sha256: str | None = None,
        reaches: Reaches = AS_IN_BASE,
    ) -> NoReturn:
        """Look at what would be trained.

        Raises:
            Outlined: With the shape of what would be trained.
            StepsTried: With how long some steps took.
            DivergedError: A step that was tried is not finite.
        """
        self._prepare(learner.module)
        batch = min(self.config.train.batch_size, self._whole(learner.num_rows))
        if not self.is_outline:
            raise StepsTried(self._timed(learner, batch))
        torch.set_num_threads(num_threads(learner.module, at_most=self.spec.num_threads))
        raise Outlined(self._outline(learner, batch))

    def _outline(self, learner: Learner, batch: int) -> Outline:
        learner.module.to("meta")
        has_validation = self.whole.get("validation", 0) > 0
        sizes = sizes_of(learner.module, self.config, has_validation=has_validation)
        at_once = min(self.config.train.micro_batch_size or batch, batch)
        rows = _last_rows(learner, min(at_once, _AT_ONCE))
        followed, complaint = None, ""
        try:
            followed = follow(learner, rows)
        except _NO_NUMBERS as error:
            complaint = type(error).__name__
        return Outline(
            sizes=sizes,
            followed=followed,
            scale=at_once / len(rows),
            step_scale=batch / len(rows),
            num_rows=self._whole(learner.num_rows),
            complaint=complaint,
        )

    def _timed(self, learner: Learner, batch: int) -> Timed:
        torch.set_num_threads(num_threads(learner.module, at_most=self.spec.num_threads))
        rows = _last_rows(learner, min(batch, _AT_ONCE))
        tried = try_steps(learner, self.config, rows=rows, patience_s=_PATIENCE_S, clock=self.clock)
        tested = self.sampled.get("validation", 0)
        return Timed(tried=tried, step_scale=batch / len(rows), validation_rows=tested)

    def _whole(self, num_rows: int) -> int:
        """Return how many rows the whole split makes, where the sample makes so many."""
        return ceil(num_rows * self.whole["train"] / self.sampled["train"])


def _most(split: str) -> int:
    """Return how many rows of a split are looked at, where preparing one takes milliseconds."""
    return _MEDIA_ROWS if split == "train" else _TESTED_ROWS


def _last_rows(learner: Learner, size: int) -> Sequence[int]:
    """Return rows of a step: the last of the first epoch, which are the longest if any are.

    A sample that is smaller is gone through again.
    """
    order = [*reversed(learner.order(0))]
    return [order[i % len(order)] for i in range(size)]
