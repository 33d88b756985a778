"""Recordings as learners take them, what these share, and what counts as better.

Shape letters, this file only:
    M = mel bands   F = frames
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from purvey.train.chance import derived_seed, permutation
from purvey.train.early_stopping import Validation

EVAL_ROWS = 16
"""Rows that are evaluated at once."""
_POOL_BATCHES = 16
"""Rows of so many batches are put in order of length, so that a batch has little padding."""
_HEARING_CER = 0.9

M = TypeVar("M", bound=nn.Module)

Measure = Callable[[list[list[int]]], dict[str, float]]
"""Numbers of what is heard in each validation row to metrics by name, `cer` among them."""


class Recordings(Protocol):
    """Recordings as features, prepared once."""

    def __len__(self) -> int:
        """Rows there are."""
        ...

    @property
    def lengths(self) -> Sequence[int]:
        """How long the features of each row are."""
        ...

    def features(self, row: int) -> Tensor:
        """Return `x_MF`, or samples, of a row in float32, changed where gradients are on."""
        ...


class HearingLearner(Generic[M]):
    """The part of a `Learner` of speech that does not depend on how it is learned.

    Args:
        module: The network.
        recordings: Training rows, each long enough for its transcript.
        targets: Numbers of what is said in each, at least one.
        validation: Rows to evaluate on; may be empty.
        validation_targets: Numbers of what is said in each.
        measure: Metrics of what is heard in validation rows.
        batch_size: Rows of a step.
        seed: Of the order.
    """

    def __init__(
        self,
        module: M,
        *,
        recordings: Recordings,
        targets: Sequence[list[int]],
        validation: Recordings,
        validation_targets: Sequence[list[int]],
        measure: Measure,
        batch_size: int,
        seed: int,
    ) -> None:
        assert len(recordings) == len(targets), "recordings and targets are not aligned"
        assert len(validation) == len(validation_targets), "validation rows are not aligned"
        self._module: M = module
        self._recordings, self._targets = recordings, targets
        self._validation, self._validation_targets = validation, validation_targets
        self._measure, self._batch_size, self._seed = measure, batch_size, seed

    @property
    def module(self) -> M:
        """The network."""
        return self._module

    @property
    def num_rows(self) -> int:
        """Training rows."""
        return len(self._recordings)


def like_length_order(
    lengths: Sequence[int], *, batch_size: int, seed: int, epoch: int
) -> list[int]:
    """Return an order of rows whose batches are of like length; the incomplete one comes last.

    Pools of shuffled rows are put in order of length, and the batches that this makes shuffled.
    Epoch 0 has all rows in order of length: what little is said in a short recording shows soonest
    which sound is which character (SortaGrad, Amodei et al. 2016, section 3.2).
    """
    shuffled = permutation(len(lengths), seed=seed, epoch=epoch)
    lengths_of = np.asarray(lengths)
    if epoch == 0:
        first: list[int] = shuffled[lengths_of[shuffled].argsort(kind="stable")].tolist()
        return first
    pool = batch_size * _POOL_BATCHES
    pools = [shuffled[start : start + pool] for start in range(0, len(shuffled), pool)]
    ordered = np.concatenate([p[lengths_of[p].argsort(kind="stable")] for p in pools])
    num_whole = len(ordered) // batch_size
    batches = ordered[: num_whole * batch_size].reshape(num_whole, batch_size)
    mixed = permutation(num_whole, seed=derived_seed(seed, "batches"), epoch=epoch)
    found: list[int] = [*batches[mixed].ravel().tolist(), *ordered[batches.size :].tolist()]
    return found


def judged(loss: float, metrics: Mapping[str, float]) -> Validation:
    """Say how good an evaluation is: the lower the character error rate, the better.

    As long as that is hardly better than writing nothing, which is how learning begins, a lower
    loss is what counts as better.
    """
    score = -metrics["cer"] if metrics["cer"] < _HEARING_CER else -1 - loss
    return Validation(score=score, loss=loss, metrics={"valid_loss": loss, **metrics})
