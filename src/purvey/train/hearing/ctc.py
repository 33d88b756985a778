"""Learning to write down speech: CTC loss (Graves et al. 2006) over batches of like length.

Shape letters, this file only:
    B = recordings   T = steps   V = the blank, characters, and what is never written
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import ctc_loss

from purvey.models.speech.ctc import CtcNetwork
from purvey.models.speech.decoding import best_path
from purvey.models.speech.vocabulary import BLANK
from purvey.train.early_stopping import Validation
from purvey.train.hearing.rows import EVAL_ROWS, HearingLearner, judged, like_length_order
from purvey.train.step import BatchLoss


class SpeechLearner(HearingLearner[CtcNetwork]):
    """A network with the recordings that it learns from; targets are numbers of characters."""

    def order(self, epoch: int) -> Sequence[int]:
        """Return batches of like length, shuffled; in the first epoch from short to long."""
        return like_length_order(
            self._recordings.lengths, batch_size=self._batch_size, seed=self._seed, epoch=epoch
        )

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute the mean loss per character of some rows."""
        features = [self._recordings.features(row) for row in rows]
        targets = [self._targets[row] for row in rows]
        logp_BTV = self._logp(features)
        losses_B, num_characters = self._losses(logp_BTV, features, targets)
        return BatchLoss(
            loss=losses_B.sum() / num_characters, num_rows=len(rows), num_tokens=num_characters
        )

    @torch.no_grad()
    def validate(self) -> Validation | None:
        """Evaluate on the validation rows; what counts as better, `judged` says."""
        if not len(self._validation):
            return None
        self._module.eval()
        heard: list[list[int]] = []
        nats, num_characters = 0.0, 0
        for start in range(0, len(self._validation), EVAL_ROWS):
            rows = range(start, min(start + EVAL_ROWS, len(self._validation)))
            features = [self._validation.features(row) for row in rows]
            logp_BTV = self._logp(features)
            targets = [self._validation_targets[row] for row in rows]
            losses_B, count = self._losses(logp_BTV, features, targets)
            nats, num_characters = nats + float(losses_B.sum()), num_characters + count
            heard += [
                self._heard(logp_TV, x) for logp_TV, x in zip(logp_BTV, features, strict=True)
            ]
        return judged(nats / num_characters, self._measure(heard))

    def _logp(self, features: Sequence[Tensor]) -> Tensor:
        """Return `logp_BTV`; features are padded with 0 to the longest."""
        lengths_B = torch.tensor([x.shape[-1] for x in features])
        padded = torch.zeros(len(features), *features[0].shape[:-1], int(lengths_B.max()))
        for number, x in enumerate(features):
            padded[number, ..., : x.shape[-1]] = x
        logp_BTV: Tensor = self._module(padded, lengths_B)
        return logp_BTV

    def _losses(
        self, logp_BTV: Tensor, features: Sequence[Tensor], targets: Sequence[list[int]]
    ) -> tuple[Tensor, int]:
        """Return the loss in nats of each row, `losses_B`, and how many characters they have."""
        lengths = [len(numbers) for numbers in targets]
        losses_B = ctc_loss(
            logp_BTV.transpose(0, 1),
            torch.tensor([number for numbers in targets for number in numbers], dtype=torch.int64),
            torch.tensor([self._module.steps_of(x.shape[-1]) for x in features]),
            torch.tensor(lengths),
            blank=BLANK,
            reduction="none",
        )
        return losses_B, max(1, sum(lengths))

    def _heard(self, logp_TV: Tensor, x: Tensor) -> list[int]:
        own_TV = logp_TV[: self._module.steps_of(x.shape[-1]), : self._module.num_outputs].numpy()
        return [emission.number for emission in best_path(own_TV)]
