"""The seam between the decoder and whatever remembers its keys and values.

Shape letters, this file only:
    T = packed tokens   N = query heads   K = key/value heads   H = head width
"""

from typing import Protocol

from torch import Tensor


class Attention(Protocol):
    """Attention of one step, called once per layer in order.

    An implementation knows which of the packed rows belong together, where their earlier keys
    and values are, and stores the new ones. Queries and keys arrive already rotated.
    """

    def __call__(self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor) -> Tensor:
        """Return `out_TNH` for this layer, in the dtype and on the device of `q_TNH`."""
        ...
