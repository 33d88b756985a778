"""The seam between the decoder and whatever remembers its keys and values.

Shape letters, this file only:
    T = packed tokens   N = query heads   K = key/value heads   H = head width
    X = queries         C = positions
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AttentionRule:
    """What a layer does with its scores.

    Args:
        scale: Factor on the product of query and key.
        window: How many positions a query sees, its own included; None sees all before it.
        softcap: Bound `c` that scores approach as `c * tanh(score / c)` (Gemma 2), if any.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None


class Attention(Protocol):
    """Attention of one step, called once per layer in order.

    An implementation knows which of the packed rows belong together, where their earlier keys
    and values are, and stores the new ones. Queries and keys arrive already rotated.
    """

    def __call__(
        self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, rule: AttentionRule
    ) -> Tensor:
        """Return `out_TNH` for this layer, in the dtype and on the device of `q_TNH`."""
        ...


def visible(queries_X: Tensor, keys_C: Tensor, window: int | None) -> Tensor:
    """Return `mask_XC`: true where a query's position may see a key's."""
    mask_XC = keys_C[None, :] <= queries_X[:, None]
    if window is not None:
        mask_XC &= keys_C[None, :] > queries_X[:, None] - window
    return mask_XC


def capped(scores: Tensor, softcap: float | None) -> Tensor:
    """Return scores within their bound."""
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)
