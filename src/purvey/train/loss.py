"""Losses: mean cross-entropy, and a language model's loss on chosen positions only.

Shape letters, this file only:
    B = sequences    L = positions of each    T = B * L packed positions
    D = residual width    V = vocabulary    M = positions with a target
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from purvey.models.attention.dense import DenseAttention
from purvey.models.decoder import Decoder


def target_losses(
    decoder: Decoder, tokens_BL: Tensor, targets_BL: Tensor, is_target_BL: Tensor
) -> Tensor:
    """Return the loss in nats at each target position, `losses_M`, float32, row by row.

    The head is computed at those positions only; on fine-tuning rows, where most positions
    are the prompt, that saves most of the head's work.

    Args:
        decoder: The model, in training or evaluation mode.
        tokens_BL: Input ids (int64), right padded with any id.
        targets_BL: Id to be predicted at each position (int64).
        is_target_BL: Whether the position counts (bool); at least one does.
    """
    num_sequences, length = tokens_BL.shape
    positions_T = torch.arange(length).repeat(num_sequences)
    attend = DenseAttention(num_sequences=num_sequences)
    x_TD = decoder.hidden(tokens_BL.reshape(-1), positions_T, attend)
    chosen_M = is_target_BL.reshape(-1).nonzero().squeeze(1)
    logits_MV = decoder.logits(x_TD.index_select(0, chosen_M))
    return cross_entropy(logits_MV, targets_BL.reshape(-1)[chosen_M], reduction="none")
