"""Causal attention of whole sequences of one length: training, and scoring without a cache.

Shape letters, this file only:
    B = sequences        L = positions of each     T = B * L packed tokens
    N = query heads      K = key/value heads       H = head width
"""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class DenseAttention:
    """Causal attention over `num_sequences` sequences packed back to back.

    Right padding needs no mask: no position sees a later one. Differentiable; dtype and device
    are those of the queries; deterministic on CPU.

    Args:
        num_sequences: Sequences of equal length in the packed rows.
    """

    def __init__(self, *, num_sequences: int) -> None:
        self._num_sequences = num_sequences

    def __call__(self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor) -> Tensor:
        """Return `out_TNH`; `layer` makes no difference, since nothing is cached."""
        q_BNLH = self._unpack(q_TNH)
        k_BKLH = self._unpack(k_TKH)
        v_BKLH = self._unpack(v_TKH)
        is_grouped = q_BNLH.shape[1] != k_BKLH.shape[1]
        out_BNLH = scaled_dot_product_attention(
            q_BNLH, k_BKLH, v_BKLH, is_causal=True, enable_gqa=is_grouped
        )
        return out_BNLH.transpose(1, 2).reshape(q_TNH.shape)

    def _unpack(self, x_TNH: Tensor) -> Tensor:
        return x_TNH.reshape(self._num_sequences, -1, *x_TNH.shape[1:]).transpose(1, 2)
