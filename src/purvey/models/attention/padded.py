"""Attention of whole texts of any lengths in one product, padded to the longest: for training.

Faster than `packed.py`, which it agrees with up to rounding; a row's bits depend on its neighbours'
lengths.

Shape letters, this file only:
    T = packed tokens   S = texts   L = tokens of the longest   N = heads   K = N
    H = head width
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from purvey.models.attention.base import AttentionRule


class PaddedAttention:
    """An `Attention` over texts back to back, each token seeing all of its own text.

    Differentiable; deterministic on CPU.

    Args:
        lengths: Tokens of each text, none 0, in the order of the rows.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        lengths_S = torch.tensor(lengths)
        self._size = (len(lengths), int(lengths_S.max()))
        is_there_SL = torch.arange(self._size[1]) < lengths_S[:, None]
        self._is_whole = bool(is_there_SL.all())
        self._places_T = is_there_SL.flatten().nonzero()[:, 0]
        self._mask_S11L = is_there_SL[:, None, None]

    def __call__(
        self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, rule: AttentionRule
    ) -> Tensor:
        """Return `out_TNH`; `layer` makes no difference, since nothing is cached."""
        assert rule.window is None, "no encoder of ours has a window"
        out_SNLH = scaled_dot_product_attention(
            self._padded(q_TNH),
            self._padded(k_TKH),
            self._padded(v_TKH),
            attn_mask=None if self._is_whole else self._mask_S11L.to(q_TNH.device),
            scale=rule.scale,
        )
        out_TNH = out_SNLH.transpose(1, 2).flatten(0, 1)
        return out_TNH if self._is_whole else out_TNH[self._places_T.to(out_TNH.device)]

    def _padded(self, x_TNH: Tensor) -> Tensor:
        if not self._is_whole:
            whole = x_TNH.new_zeros((self._size[0] * self._size[1], *x_TNH.shape[1:]))
            x_TNH = whole.index_copy(0, self._places_T.to(x_TNH.device), x_TNH)
        return x_TNH.reshape(*self._size, *x_TNH.shape[1:]).transpose(1, 2)
