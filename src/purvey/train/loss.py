"""Losses: a language model's, on chosen positions only.

Shape letters, this file only:
    T = positions of all sequences of a batch    D = residual width    V = vocabulary
    M = positions with a target                  C = those of one piece
    S = sequences
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from purvey.models.attention.base import Attention
from purvey.models.config import DecoderConfig
from purvey.train.chunked import Shape, mean_cross_entropy, piece_rows
from purvey.train.token_rows import TokenBatch


class Continues(Protocol):
    """What continues token sequences: a decoder, or one that is shown something beside them."""

    @property
    def config(self) -> DecoderConfig:
        """Its shape."""
        ...

    @property
    def head(self) -> Tensor:
        """The matrix `head_VD` that gives logits."""
        ...

    def hidden(self, tokens_T: Tensor, positions_T: Tensor, attend: Attention) -> Tensor:
        """Return the normalised final states `x_TD` of packed tokens."""
        ...

    def logits(self, x_TD: Tensor) -> Tensor:
        """Return `logits_TV` in float32 of final states."""
        ...


def target_losses(decoder: Continues, batch: TokenBatch) -> Tensor:
    """Return the loss in nats at each target position, `losses_M`, float32, in order.

    The head is computed at those positions only; on fine-tuning rows, where most positions
    are the prompt, that saves most of the head's work.

    Args:
        decoder: The model, in training or evaluation mode.
        batch: At least one position has a target.
    """
    pieces = _logits_at_targets(decoder, batch)
    return torch.cat([cross_entropy(x, targets, reduction="none") for x, targets in pieces])


def target_verdicts(decoder: Continues, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Return `target_losses`, and whether each target is the likeliest token, `is_best_M`."""
    losses: list[Tensor] = []
    is_best: list[Tensor] = []
    for logits_CV, targets_C in _logits_at_targets(decoder, batch):
        losses.append(cross_entropy(logits_CV, targets_C, reduction="none"))
        is_best.append(logits_CV.argmax(1) == targets_C)
    return torch.cat(losses), torch.cat(is_best)


def mean_loss(decoder: Continues, batch: TokenBatch, *, smoothing: float = 0.0) -> Tensor:
    """Return the mean of `target_losses` with its graph, for less memory and time.

    Args:
        decoder: As above.
        batch: As above.
        smoothing: Share of each target's weight that is spread evenly over the vocabulary
            (Szegedy et al. 2016, section 7), in [0, 1).
    """
    x_MD, targets_M = _at_targets(decoder, batch)
    shape = Shape(softcap=decoder.config.logit_softcap, smoothing=smoothing)
    return mean_cross_entropy(x_MD, decoder.head, targets_M, shape)


def sequence_losses(decoder: Continues, batch: TokenBatch) -> Tensor:
    """Return the sum of each sequence's `target_losses`, `losses_S`: minus its log-probability."""
    losses_M = target_losses(decoder, batch)
    losses_S = losses_M.new_zeros(len(batch.lengths))
    return losses_S.index_add(0, batch.owners().to(losses_M.device), losses_M)


def _logits_at_targets(decoder: Continues, batch: TokenBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and targets of some positions at a time."""
    x_MD, targets_M = _at_targets(decoder, batch)
    rows = piece_rows(decoder.config.vocabulary_size)
    for x_CD, targets_C in zip(torch.split(x_MD, rows), torch.split(targets_M, rows), strict=True):
        yield decoder.logits(x_CD), targets_C


def _at_targets(decoder: Continues, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Return `x_MD`, the final states at positions with a target, and the targets.

    The batch crosses over to where the weights are; which positions count is found before that,
    so that a device is not waited for.
    """
    device = decoder.head.device
    tokens_T, positions_T = batch.tokens_T.to(device), batch.positions_T.to(device)
    x_TD = decoder.hidden(tokens_T, positions_T, batch.attention())
    chosen_M = batch.is_target_T.nonzero().squeeze(1)
    targets_M = batch.targets_T[chosen_M].to(device)
    return x_TD.index_select(0, chosen_M.to(device)), targets_M
