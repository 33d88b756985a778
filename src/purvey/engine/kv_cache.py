"""Memory of keys and values: one pair of pools per layer, cut into blocks.

Shape letters, this file only:
    S = slots (blocks x positions per block)   T = packed tokens   C = positions of a sequence
    K = key/value heads                        H = head width
"""

import itertools
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from purvey.engine.blocks import BlockId
from purvey.errors import SettingError
from purvey.models.config import DecoderConfig

BLOCK_TOKENS = 16
_BYTES_PER_FLOAT = 4


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a sequence's positions lie: slot by slot, or as one run of neighbours.

    Args:
        slots_C: Slot of every position (int64).
        first_slot: Slot of position 0 when all others follow it, else None.
    """

    slots_C: Tensor  # noqa: N815 (tensors carry their axes)
    first_slot: int | None


class Places(Protocol):
    """A cache as those see it who plan and pack."""

    @property
    def num_blocks(self) -> int:
        """Blocks of `BLOCK_TOKENS` positions."""
        ...

    def place(self, blocks: list[BlockId], num_positions: int) -> Place:
        """Locate the first `num_positions` of a sequence that holds `blocks` in this order."""
        ...


class KVCache:
    """Keys and values of all blocks, float32 on CPU.

    Args:
        config: The decoder's shape.
        num_blocks: Blocks of `BLOCK_TOKENS` positions; memory is touched only when written.
    """

    def __init__(self, config: DecoderConfig, *, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.queries_per_key = config.num_heads // config.num_kv_heads
        shape = (config.num_kv_heads, num_blocks * BLOCK_TOKENS, config.head_size)
        self._k_KSH = [torch.zeros(shape) for _ in range(config.num_layers)]
        self._v_KSH = [torch.zeros(shape) for _ in range(config.num_layers)]

    @property
    def num_bytes(self) -> int:
        """Memory of all pools when every block has been used."""
        return sum(pool.nbytes for pool in (*self._k_KSH, *self._v_KSH))

    def place(self, blocks: list[BlockId], num_positions: int) -> Place:
        """Locate the first `num_positions` of a sequence that holds `blocks` in this order."""
        return place_of(blocks, num_positions)

    def write(self, layer: int, slots_T: Tensor, k_TKH: Tensor, v_TKH: Tensor) -> None:
        """Store keys and values of packed tokens at their slots."""
        self._k_KSH[layer].index_copy_(1, slots_T, k_TKH.transpose(0, 1))
        self._v_KSH[layer].index_copy_(1, slots_T, v_TKH.transpose(0, 1))

    def read(self, layer: int, place: Place) -> tuple[Tensor, Tensor]:
        """Return `k_KCH` and `v_KCH` of a sequence; a view where its slots are neighbours."""
        k_KSH, v_KSH = self._k_KSH[layer], self._v_KSH[layer]
        if place.first_slot is None:
            return k_KSH.index_select(1, place.slots_C), v_KSH.index_select(1, place.slots_C)
        length = place.slots_C.shape[0]
        return k_KSH.narrow(1, place.first_slot, length), v_KSH.narrow(1, place.first_slot, length)


def place_of(blocks: list[BlockId], num_positions: int) -> Place:
    """Locate the first `num_positions` of a sequence that holds `blocks` in this order."""
    starts = torch.tensor(blocks, dtype=torch.int64)[:, None] * BLOCK_TOKENS
    slots_C = (starts + torch.arange(BLOCK_TOKENS)).flatten()[:num_positions]
    is_run = all(after - before == 1 for before, after in itertools.pairwise(blocks))
    return Place(slots_C=slots_C, first_slot=blocks[0] * BLOCK_TOKENS if is_run else None)


def blocks_in(
    kv_cache_bytes: int, config: DecoderConfig, *, number_bytes: int = _BYTES_PER_FLOAT
) -> int:
    """Compute how many blocks the memory holds, at so many bytes for each number.

    Raises:
        SettingError: Not even one block fits.
    """
    numbers = 2 * config.num_layers * config.num_kv_heads * config.head_size * BLOCK_TOKENS
    block_bytes = numbers * number_bytes
    if kv_cache_bytes < block_bytes:
        raise SettingError(
            f"kv_cache_bytes is {kv_cache_bytes}; one block of this model takes {block_bytes}.",
            param="kv_cache_bytes",
            hint="Give it enough for the longest requests that run at the same time.",
        )
    return kv_cache_bytes // block_bytes
