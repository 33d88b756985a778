"""Attention of whole texts of any lengths, packed without padding: one text at a time.

What a row sees, and with it its bits, depends on its own text alone.

Shape letters, this file only:
    T = packed tokens   N = query heads   K = key/value heads   H = head width
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from purvey.models.attention.base import AttentionRule
from purvey.models.attention.dense import DenseAttention


class PackedAttention:
    """An `Attention` over texts that are computed whole, back to back.

    Args:
        lengths: Tokens of each text, in the order of the rows.
        is_causal: Whether a token sees only those up to itself.
    """

    def __init__(self, lengths: Sequence[int], *, is_causal: bool) -> None:
        self._lengths = list(lengths)
        self._causal = [DenseAttention(num_sequences=1) for _ in lengths] if is_causal else None

    def __call__(
        self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, rule: AttentionRule
    ) -> Tensor:
        """Return `out_TNH`."""
        rows = [torch.split(x, self._lengths) for x in (q_TNH, k_TKH, v_TKH)]
        if self._causal is not None:
            pairs = zip(self._causal, *rows, strict=True)
            return torch.cat([attend(layer, q, k, v, rule) for attend, q, k, v in pairs])
        assert rule.window is None, "no encoder of ours has a window"
        return torch.cat([_attended(q, k, v, rule) for q, k, v in zip(*rows, strict=True)])


def _attended(q_TNH: Tensor, k_TNH: Tensor, v_TNH: Tensor, rule: AttentionRule) -> Tensor:
    q, k, v = (x.transpose(0, 1)[None] for x in (q_TNH, k_TNH, v_TNH))
    out_1NTH = scaled_dot_product_attention(q, k, v, scale=rule.scale)
    return out_1NTH[0].transpose(0, 1)
