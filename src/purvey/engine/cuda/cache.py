"""Keys and values on a CUDA device: one pair of pools per layer, cut into blocks.

Shape letters, this file only:
    S = slots (blocks x positions per block)   K = key/value heads   H = head width
"""

import torch
from torch import Tensor

from purvey.engine.blocks import BlockId
from purvey.engine.kv_cache import BLOCK_TOKENS, Place, place_of
from purvey.models.config import DecoderConfig


class CudaCache:
    """Keys and values of all blocks, and one block more, where rows that fill a graph write.

    Args:
        config: The decoder's shape.
        num_blocks: Blocks of `BLOCK_TOKENS` positions.
        dtype: Of keys and values.
        device: Where they lie.
    """

    def __init__(
        self, config: DecoderConfig, *, num_blocks: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_blocks = num_blocks
        self.spare_slot = num_blocks * BLOCK_TOKENS
        shape = (config.num_kv_heads, (num_blocks + 1) * BLOCK_TOKENS, config.head_size)
        self._k_KSH, self._v_KSH = (
            [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
            for _ in range(2)
        )

    @property
    def num_bytes(self) -> int:
        """Memory of all pools."""
        return sum(pool.nbytes for pool in (*self._k_KSH, *self._v_KSH))

    def place(self, blocks: list[BlockId], num_positions: int) -> Place:
        """Locate the first `num_positions` of a sequence that holds `blocks` in this order."""
        return place_of(blocks, num_positions)

    def pools(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return `k_KSH` and `v_KSH` of a layer."""
        return self._k_KSH[layer], self._v_KSH[layer]
