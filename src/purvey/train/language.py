"""Learning to continue text: packed documents, or conversations with masked prompts.

Shape letters, this file only:
    B = sequences    L = positions of each    M = positions with a target
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purvey.models.decoder import Decoder
from purvey.train.chance import permutation
from purvey.train.early_stopping import Validation
from purvey.train.loss import target_losses
from purvey.train.step import BatchLoss

_EVAL_TOKENS = 8_192
"""Positions of one forward pass of an evaluation, padding included."""


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One training sequence.

    Args:
        ids: Token ids (int32), at least two.
        is_target: Which ids the model learns to produce; the first never counts.
    """

    ids: NDArray[np.int32]
    is_target: NDArray[np.bool_]

    @property
    def num_targets(self) -> int:
        """Ids that contribute to the loss."""
        return int(self.is_target[1:].sum())


def token_row(ids: Sequence[int], is_target: Sequence[bool], *, max_tokens: int) -> TokenRow:
    """Build a row, cut to `max_tokens`."""
    return TokenRow(
        ids=np.asarray(ids[:max_tokens], dtype=np.int32),
        is_target=np.asarray(is_target[:max_tokens], dtype=np.bool_),
    )


def pack(
    documents: Iterable[Sequence[int]],
    *,
    end_id: int,
    row_tokens: int,
    begin_ids: Sequence[int] = (),
) -> list[TokenRow]:
    """Join documents, each behind an end token, and cut the stream into equal rows.

    `begin_ids` stand before every document, as they do before every prompt that is served.

    Rows overlap by the one token that is input of the next and target of the last; the last
    row reaches back so that all have one length, and what it repeats is no target again.

    Returns:
        Rows of `row_tokens + 1` ids (fewer only if there are not that many); none for no text.
    """
    stream = np.fromiter(_stream(documents, end_id, begin_ids), dtype=np.int32)
    size = min(row_tokens + 1, len(stream))
    if size < 2:
        return []
    last = len(stream) - size
    starts = [*range(0, last, row_tokens), last]
    is_new = np.ones(size, dtype=np.bool_)
    is_new_last = is_new.copy()
    if len(starts) > 1:
        is_new_last[: starts[-2] + row_tokens - last + 1] = False
    masks = [*[is_new] * (len(starts) - 1), is_new_last]
    return [
        TokenRow(ids=stream[start : start + size], is_target=mask)
        for start, mask in zip(starts, masks, strict=True)
    ]


class LanguageLearner:
    """A decoder with the sequences it learns from.

    Args:
        decoder: The model; LoRA adapters, if any, are already in place.
        rows: Training sequences, each with a target.
        validation: Sequences to evaluate on; may be empty.
        batch_size: Rows per step; decides how rows of like length are gathered.
        seed: Of the order.
    """

    def __init__(
        self,
        decoder: Decoder,
        rows: Sequence[TokenRow],
        validation: Sequence[TokenRow],
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        self._decoder, self._rows, self._validation = decoder, rows, validation
        self._batch_size, self._seed = batch_size, seed
        self._lengths = np.array([len(row.ids) for row in rows])

    @property
    def module(self) -> Decoder:
        """The decoder."""
        return self._decoder

    @property
    def num_rows(self) -> int:
        """Training sequences of one epoch."""
        return len(self._rows)

    def order(self, epoch: int) -> Sequence[int]:
        """Shuffle; within windows of eight batches, gather rows of like length.

        Less padding, at the price of batches that are not fully independent draws.
        """
        shuffled = permutation(len(self._rows), seed=self._seed, epoch=epoch)
        if self._lengths.min() == self._lengths.max():
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
        tokens_BL, targets_BL, is_target_BL = collate([self._rows[row] for row in rows])
        losses_M = target_losses(self._decoder, tokens_BL, targets_BL, is_target_BL)
        return BatchLoss(loss=losses_M.mean(), num_rows=len(rows), num_tokens=len(losses_M))

    def validate(self) -> Validation | None:
        """Evaluate the mean loss per target token; the score is minus it."""
        if not self._validation:
            return None
        nats, tokens = row_losses(self._decoder, self._validation)
        loss = float(nats.sum() / tokens.sum())
        return Validation(
            score=-loss,
            loss=loss,
            metrics={"valid_loss": loss, "perplexity": float(np.exp(min(loss, 700.0)))},
        )


def collate(rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, targets (int64) and whether each counts (bool), right padded."""
    length = max(len(row.ids) for row in rows) - 1
    tokens_BL = np.zeros((len(rows), length), dtype=np.int64)
    targets_BL = np.zeros_like(tokens_BL)
    is_target_BL = np.zeros(tokens_BL.shape, dtype=np.bool_)
    for i, row in enumerate(rows):
        size = len(row.ids) - 1
        tokens_BL[i, :size], targets_BL[i, :size] = row.ids[:-1], row.ids[1:]
        is_target_BL[i, :size] = row.is_target[1:]
    return (
        torch.from_numpy(tokens_BL),
        torch.from_numpy(targets_BL),
        torch.from_numpy(is_target_BL),
    )


@torch.no_grad()
def row_losses(
    decoder: Decoder, rows: Sequence[TokenRow]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each row's summed loss in nats and its number of target tokens.

    The decoder is left in evaluation mode.
    """
    decoder.eval()
    nats, tokens = np.zeros(len(rows)), np.array([float(row.num_targets) for row in rows])
    for chosen in _eval_batches(rows):
        tokens_BL, targets_BL, is_target_BL = collate([rows[i] for i in chosen])
        if not is_target_BL.any():
            continue
        losses_M = target_losses(decoder, tokens_BL, targets_BL, is_target_BL).double().numpy()
        owners_M = is_target_BL.nonzero()[:, 0].numpy()
        nats[chosen] += np.bincount(owners_M, weights=losses_M, minlength=len(chosen))
    return nats, tokens


def _eval_batches(rows: Sequence[TokenRow]) -> Iterator[list[int]]:
    chosen: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i].ids)):
        if chosen and (len(chosen) + 1) * len(rows[i].ids) > _EVAL_TOKENS:
            yield chosen
            chosen = []
        chosen.append(i)
    if chosen:
        yield chosen


def _stream(
    documents: Iterable[Sequence[int]], end_id: int, begin_ids: Sequence[int]
) -> Iterator[int]:
    if not begin_ids:
        yield end_id
    for document in documents:
        yield from begin_ids
        yield from document
        yield end_id
