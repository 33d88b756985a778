"""Learning to continue text: packed documents, or conversations with masked prompts."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from purvey.models.decoder import Decoder
from purvey.train.chance import permutation
from purvey.train.early_stopping import Validation
from purvey.train.loss import mean_loss, target_losses
from purvey.train.step import BatchLoss
from purvey.train.token_rows import TokenRow, collate

_EVAL_TOKENS = 8_192
"""Positions of one forward pass of an evaluation."""


class LanguageLearner:
    """A decoder with the sequences it learns from.

    Args:
        decoder: The model; LoRA adapters, if any, are already in place.
        rows: Training sequences, each with a target.
        validation: Sequences to evaluate on; may be empty.
        batch_size: Rows per step; decides how rows of like length are gathered.
        seed: Of the order.
        is_packed: Compute a batch's rows back to back; else pad them to the longest.
        validation_characters: Characters of what `validation` holds, if that is told.
        smoothing: As `mean_loss` has it.
    """

    def __init__(
        self,
        decoder: Decoder,
        rows: Sequence[TokenRow],
        validation: Sequence[TokenRow],
        *,
        batch_size: int,
        seed: int,
        is_packed: bool = True,
        validation_characters: int = 0,
        smoothing: float = 0.0,
    ) -> None:
        self._decoder, self._rows, self._validation = decoder, rows, validation
        self._batch_size, self._seed, self._is_packed = batch_size, seed, is_packed
        self._lengths = np.array([len(row.ids) for row in rows])
        self._characters, self._smoothing = validation_characters, smoothing

    @property
    def module(self) -> Decoder:
        """The decoder."""
        return self._decoder

    @property
    def num_rows(self) -> int:
        """Training sequences of one epoch."""
        return len(self._rows)

    def order(self, epoch: int) -> Sequence[int]:
        """Shuffle; rows that are padded are gathered by length within windows of eight batches.

        Less padding, at the price of batches that are not fully independent draws.
        """
        shuffled = permutation(len(self._rows), seed=self._seed, epoch=epoch)
        if self._is_packed or self._lengths.min() == self._lengths.max():
            order: list[int] = shuffled.tolist()
            return order
        gathered: list[int] = []
        for start in range(0, len(shuffled), 8 * self._batch_size):
            window = shuffled[start : start + 8 * self._batch_size]
            by_length = window[np.argsort(self._lengths[window], kind="stable")]
            batches = np.array_split(
                by_length, range(self._batch_size, len(window), self._batch_size)
            )
            turns = permutation(len(batches), seed=self._seed + start, epoch=epoch)
            # A short last batch must stay last, or the batches behind it would be cut elsewhere.
            turns = np.array([*turns[turns != len(batches) - 1], len(batches) - 1])
            gathered += [int(row) for turn in turns for row in batches[turn]]
        return gathered

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute the mean loss over the target tokens of some rows."""
        batch = collate([self._rows[row] for row in rows], is_packed=self._is_packed)
        loss = mean_loss(self._decoder, batch, smoothing=self._smoothing)
        num_tokens = int(batch.is_target_T.sum())
        return BatchLoss(loss=loss, num_rows=len(rows), num_tokens=num_tokens)

    def validate(self) -> Validation | None:
        """Evaluate the mean loss per target token; the score is minus it."""
        if not self._validation:
            return None
        nats, tokens = row_losses(self._decoder, self._validation)
        loss = float(nats.sum() / tokens.sum())
        metrics = {"valid_loss": loss, "perplexity": float(np.exp(min(loss, 700.0)))}
        if self._characters:
            metrics["nats_per_character"] = float(nats.sum() / self._characters)
        return Validation(score=-loss, loss=loss, metrics=metrics)


@torch.no_grad()
def row_losses(
    decoder: Decoder, rows: Sequence[TokenRow]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each row's summed loss in nats and its number of target tokens.

    The decoder is left in evaluation mode.
    """
    decoder.eval()
    nats, tokens = np.zeros(len(rows)), np.array([float(row.num_targets) for row in rows])
    for chosen in eval_batches([len(row.ids) for row in rows]):
        batch = collate([rows[i] for i in chosen])
        if not batch.is_target_T.any():
            continue
        losses_M = target_losses(decoder, batch).cpu().double().numpy()
        owners_M = batch.owners().numpy()
        nats[chosen] += np.bincount(owners_M, weights=losses_M, minlength=len(chosen))
    return nats, tokens


def eval_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Divide rows of those lengths into batches of few positions, rows of one length together."""
    chosen: list[int] = []
    held = 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if chosen and held + lengths[i] > _EVAL_TOKENS:
            yield chosen
            chosen, held = [], 0
        chosen.append(i)
        held += lengths[i]
    if chosen:
        yield chosen
