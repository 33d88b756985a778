"""Learning to write down speech token by token: cross-entropy, each token told before the next.

Shape letters, this file only:
    B = recordings   M = mel bands   F = frames   T = tokens   V = vocabulary
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from purvey.train.early_stopping import Validation
from purvey.train.hearing.rows import (
    EVAL_ROWS,
    HearingLearner,
    Measure,
    Recordings,
    judged,
    like_length_order,
)
from purvey.train.step import BatchLoss

_UNTAUGHT = -100
"""Target of what stands before, and behind, what is written."""

Write = Callable[[Tensor, int], list[int]]
"""From `x_MF` and a number of tokens, at most, to the tokens that are written of it."""


class SequenceLearner(HearingLearner[nn.Module]):
    """An encoder and decoder with the recordings that they learn from.

    Args:
        module: Of the library: features and tokens in, logits of each next token out.
        prefix: Tokens that stand before what is written.
        recordings: Training rows, all of one length.
        targets: Tokens of each, with the end.
        validation: Rows to evaluate on; may be empty.
        validation_targets: Tokens of each.
        write: How a row is written down, for the metrics.
        measure: Metrics of what is written of validation rows.
        batch_size: Rows of a step.
        seed: Of the order.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        prefix: Sequence[int],
        recordings: Recordings,
        targets: Sequence[list[int]],
        validation: Recordings,
        validation_targets: Sequence[list[int]],
        write: Write,
        measure: Measure,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(
            module,
            recordings=recordings,
            targets=targets,
            validation=validation,
            validation_targets=validation_targets,
            measure=measure,
            batch_size=batch_size,
            seed=seed,
        )
        self._prefix, self._write = list(prefix), write

    def order(self, epoch: int) -> Sequence[int]:
        """Return batches of like numbers of tokens, shuffled; at first from few to many."""
        lengths = [len(numbers) for numbers in self._targets]
        return like_length_order(lengths, batch_size=self._batch_size, seed=self._seed, epoch=epoch)

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute the mean loss per token of some rows."""
        nats, num_tokens = self._nats(self._recordings, self._targets, rows)
        return BatchLoss(loss=nats / num_tokens, num_rows=len(rows), num_tokens=num_tokens)

    @torch.no_grad()
    def validate(self) -> Validation | None:
        """Evaluate on the validation rows; what counts as better, `judged` says."""
        if not len(self._validation):
            return None
        self._module.eval()
        nats, num_tokens = 0.0, 0
        for start in range(0, len(self._validation), EVAL_ROWS):
            rows = range(start, min(start + EVAL_ROWS, len(self._validation)))
            lost, count = self._nats(self._validation, self._validation_targets, rows)
            nats, num_tokens = nats + float(lost), num_tokens + count
        written = [
            self._write(self._validation.features(row), 2 * len(numbers))
            for row, numbers in enumerate(self._validation_targets)
        ]
        return judged(nats / num_tokens, self._measure(written))

    def _nats(
        self, recordings: Recordings, targets: Sequence[list[int]], rows: Sequence[int]
    ) -> tuple[Tensor, int]:
        """Return the loss in nats of some rows, added up, and how many tokens they have."""
        x_BMF = torch.stack([recordings.features(row) for row in rows])
        told_BT, wanted_BT = self._told([targets[row] for row in rows])
        network: Any = self._module  # the library is untyped here
        logits_BTV = network(
            input_features=x_BMF, decoder_input_ids=told_BT, use_cache=False
        ).logits.float()
        nats = cross_entropy(
            logits_BTV.flatten(0, 1), wanted_BT.flatten(), ignore_index=_UNTAUGHT, reduction="sum"
        )
        return nats, int((wanted_BT != _UNTAUGHT).sum())

    def _told(self, targets: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Return what the decoder is told, and what is to come next: `told_BT`, `wanted_BT`."""
        num_before = len(self._prefix)
        longest = num_before + max(map(len, targets)) - 1
        told_BT = torch.zeros(len(targets), longest, dtype=torch.int64)
        wanted_BT = torch.full((len(targets), longest), _UNTAUGHT)
        for number, ids in enumerate(targets):
            told = [*self._prefix, *ids[:-1]]
            told_BT[number, : len(told)] = torch.tensor(told)
            wanted_BT[number, num_before - 1 : len(told)] = torch.tensor(ids)
        return told_BT, wanted_BT
