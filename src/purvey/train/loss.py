"""Losses: a language model's, on chosen positions only.

Shape letters, this file only:
    T = positions of all sequences of a batch    D = residual width    V = vocabulary
    M = positions with a target                  S = sequences
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from purvey.models.decoder import Decoder
from purvey.train.chunked import Shape, mean_cross_entropy, piece_rows
from purvey.train.token_rows import TokenBatch


def target_losses(decoder: Decoder, batch: TokenBatch) -> Tensor:
    """Return the loss in nats at each target position, `losses_M`, float32, in order.

    The head is computed at those positions only; on fine-tuning rows, where most positions
    are the prompt, that saves most of the head's work.

    Args:
        decoder: The model, in training or evaluation mode.
        batch: At least one position has a target.
    """
    x_MD, targets_M = _at_targets(decoder, batch)
    rows = piece_rows(decoder.config.vocabulary_size)
    pieces = zip(torch.split(x_MD, rows), torch.split(targets_M, rows), strict=True)
    return torch.cat(
        [cross_entropy(decoder.logits(x), targets, reduction="none") for x, targets in pieces]
    )


def mean_loss(decoder: Decoder, batch: TokenBatch, *, smoothing: float = 0.0) -> Tensor:
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


def sequence_losses(decoder: Decoder, batch: TokenBatch) -> Tensor:
    """Return the sum of each sequence's `target_losses`, `losses_S`: minus its log-probability."""
    losses_M = target_losses(decoder, batch)
    losses_S = torch.zeros(len(batch.lengths), dtype=losses_M.dtype)
    return losses_S.index_add(0, batch.owners(), losses_M)


def _at_targets(decoder: Decoder, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Return `x_MD`, the final states at positions with a target, and the targets."""
    x_TD = decoder.hidden(batch.tokens_T, batch.positions_T, batch.attention())
    chosen_M = batch.is_target_T.nonzero().squeeze(1)
    return x_TD.index_select(0, chosen_M), batch.targets_T[chosen_M]
