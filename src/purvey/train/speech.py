"""Learning to write down speech: CTC loss (Graves et al. 2006) over batches of like length.

Shape letters, this file only:
    B = recordings   M = mel bands   F = frames   T = steps   V = characters and the blank
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import ctc_loss

from purvey.models.speech.decoding import best_path
from purvey.models.speech.network import CtcEncoder, steps_of
from purvey.models.speech.vocabulary import BLANK
from purvey.train.chance import derived_seed, permutation
from purvey.train.early_stopping import Validation
from purvey.train.step import BatchLoss

_POOL_BATCHES = 16
"""Rows of so many batches are put in order of length, so that a batch has little padding."""
_EVAL_ROWS = 16
_HEARING_CER = 0.9

Measure = Callable[[list[list[int]]], dict[str, float]]
"""Numbers of the characters heard in each validation row to metrics by name, `cer` among them."""


class Recordings(Protocol):
    """Recordings as features, prepared once."""

    def __len__(self) -> int:
        """Rows there are."""
        ...

    @property
    def lengths(self) -> Sequence[int]:
        """Frames of each row."""
        ...

    def features(self, row: int) -> Tensor:
        """Return `x_MF` of a row in float32, changed at random where gradients are on."""
        ...


class SpeechLearner:
    """An encoder with the recordings that it learns from.

    Args:
        module: The encoder.
        recordings: Training rows, each long enough for its transcript.
        targets: Numbers of the characters of each, at least one.
        validation: Rows to evaluate on; may be empty.
        validation_targets: Numbers of the characters of each.
        measure: Metrics of what is heard in validation rows.
        batch_size: Rows of a step.
        seed: Of the order.
    """

    def __init__(
        self,
        module: CtcEncoder,
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
        self._module, self._recordings, self._targets = module, recordings, targets
        self._validation, self._validation_targets = validation, validation_targets
        self._measure, self._batch_size, self._seed = measure, batch_size, seed

    @property
    def module(self) -> nn.Module:
        """The encoder."""
        return self._module

    @property
    def num_rows(self) -> int:
        """Training rows."""
        return len(self._recordings)

    def order(self, epoch: int) -> Sequence[int]:
        """Return batches of like length, shuffled; in the first epoch from short to long.

        What little is said in a short recording shows soonest which sound is which character
        (SortaGrad, Amodei et al. 2016, section 3.2).
        """
        return like_length_order(
            self._recordings.lengths, batch_size=self._batch_size, seed=self._seed, epoch=epoch
        )

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute the mean loss per character of some rows."""
        features = [self._recordings.features(row) for row in rows]
        targets = [self._targets[row] for row in rows]
        losses_B, num_characters = _losses(_logp(self._module, features), features, targets)
        return BatchLoss(
            loss=losses_B.sum() / num_characters, num_rows=len(rows), num_tokens=num_characters
        )

    @torch.no_grad()
    def validate(self) -> Validation | None:
        """Evaluate on the validation rows.

        The best weights have the lowest character error rate. As long as that is hardly better than
        writing nothing, which is how CTC begins, a lower loss is what counts as better.
        """
        if not len(self._validation):
            return None
        self._module.eval()
        heard: list[list[int]] = []
        nats, num_characters = 0.0, 0
        for start in range(0, len(self._validation), _EVAL_ROWS):
            rows = range(start, min(start + _EVAL_ROWS, len(self._validation)))
            features = [self._validation.features(row) for row in rows]
            logp_BTV = _logp(self._module, features)
            targets = [self._validation_targets[row] for row in rows]
            losses_B, count = _losses(logp_BTV, features, targets)
            nats, num_characters = nats + float(losses_B.sum()), num_characters + count
            heard += [
                _heard(logp_TV, x_MF) for logp_TV, x_MF in zip(logp_BTV, features, strict=True)
            ]
        loss, metrics = nats / num_characters, self._measure(heard)
        score = -metrics["cer"] if metrics["cer"] < _HEARING_CER else -1 - loss
        return Validation(score=score, loss=loss, metrics={"valid_loss": loss, **metrics})


def like_length_order(
    lengths: Sequence[int], *, batch_size: int, seed: int, epoch: int
) -> list[int]:
    """Return an order of rows whose batches are of like length; the incomplete one comes last.

    Pools of shuffled rows are put in order of length, and the batches that this makes shuffled.
    Epoch 0 has all rows in order of length.
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


def _logp(module: nn.Module, features: Sequence[Tensor]) -> Tensor:
    """Return `logp_BTV`; features are padded with 0 to the longest."""
    longest = max(x_MF.shape[1] for x_MF in features)
    x_BMF = torch.zeros(len(features), features[0].shape[0], longest)
    for number, x_MF in enumerate(features):
        x_BMF[number, :, : x_MF.shape[1]] = x_MF
    frames_B = torch.tensor([x_MF.shape[1] for x_MF in features])
    logp_BTV: Tensor = module(x_BMF, frames_B)
    return logp_BTV


def _steps(features: Sequence[Tensor]) -> Tensor:
    return torch.tensor([steps_of(x_MF.shape[1]) for x_MF in features])


def _losses(
    logp_BTV: Tensor, features: Sequence[Tensor], targets: Sequence[list[int]]
) -> tuple[Tensor, int]:
    """Return the loss in nats of each row, `losses_B`, and how many characters they have."""
    lengths = [len(numbers) for numbers in targets]
    losses_B = ctc_loss(
        logp_BTV.transpose(0, 1),
        torch.tensor([number for numbers in targets for number in numbers], dtype=torch.int64),
        _steps(features),
        torch.tensor(lengths),
        blank=BLANK,
        reduction="none",
    )
    return losses_B, max(1, sum(lengths))


def _heard(logp_TV: Tensor, x_MF: Tensor) -> list[int]:
    own_TV = logp_TV[: steps_of(x_MF.shape[1])].numpy()
    return [emission.number for emission in best_path(own_TV)]
