"""Causal attention of whole sequences of one length: training, and scoring without a cache.

Shape letters, this file only:
    B = sequences        L = positions of each     T = B * L packed tokens
    N = query heads      K = key/value heads       H = head width
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from purvey.models.attention.base import AttentionRule, capped, visible


class DenseAttention:
    """Causal attention over `num_sequences` sequences packed back to back.

    Right padding needs no mask: no position sees a later one. Differentiable; dtype and device
    are those of the queries; deterministic on CPU.

    Args:
        num_sequences: Sequences of equal length in the packed rows.
    """

    def __init__(self, *, num_sequences: int) -> None:
        self._num_sequences = num_sequences
        self._masks: dict[int, Tensor] = {}

    def __call__(
        self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, rule: AttentionRule
    ) -> Tensor:
        """Return `out_TNH`; `layer` makes no difference, since nothing is cached."""
        q_BNLH = self._unpack(q_TNH)
        k_BKLH = self._unpack(k_TKH)
        v_BKLH = self._unpack(v_TKH)
        mask_LL = self._mask(q_BNLH, rule.window)
        if rule.softcap is not None:
            out_BNLH = _attend_capped(q_BNLH, k_BKLH, v_BKLH, mask_LL, rule)
        else:
            out_BNLH = scaled_dot_product_attention(
                q_BNLH,
                k_BKLH,
                v_BKLH,
                attn_mask=mask_LL,
                is_causal=mask_LL is None,
                scale=rule.scale,
                enable_gqa=q_BNLH.shape[1] != k_BKLH.shape[1],
            )
        return out_BNLH.transpose(1, 2).reshape(q_TNH.shape)

    def _unpack(self, x_TNH: Tensor) -> Tensor:
        return x_TNH.reshape(self._num_sequences, -1, *x_TNH.shape[1:]).transpose(1, 2)

    def _mask(self, q_BNLH: Tensor, window: int | None) -> Tensor | None:
        """Return who sees whom where a window is narrower than the sequences; else None."""
        length = q_BNLH.shape[2]
        if window is None or window >= length:
            return None
        if window not in self._masks:
            positions_L = torch.arange(length, device=q_BNLH.device)
            self._masks[window] = visible(positions_L, positions_L, window)
        return self._masks[window]


def _attend_capped(
    q_BNLH: Tensor, k_BKLH: Tensor, v_BKLH: Tensor, mask_LL: Tensor | None, rule: AttentionRule
) -> Tensor:
    """Attend step by step: no fused kernel bounds its scores."""
    group = q_BNLH.shape[1] // k_BKLH.shape[1]
    k_BNLH = k_BKLH.repeat_interleave(group, dim=1)
    v_BNLH = v_BKLH.repeat_interleave(group, dim=1)
    if mask_LL is None:
        positions_L = torch.arange(q_BNLH.shape[2], device=q_BNLH.device)
        mask_LL = visible(positions_L, positions_L, None)
    scores_BNLL = capped(q_BNLH @ k_BNLH.transpose(-1, -2) * rule.scale, rule.softcap)
    scores_BNLL = scores_BNLL.masked_fill(~mask_LL, float("-inf"))
    return scores_BNLL.float().softmax(-1).to(q_BNLH.dtype) @ v_BNLH
