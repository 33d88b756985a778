"""Memory of keys and values: one pair of pools per layer, cut into blocks.

A block's keys lie head by head, and within a head one element of all its positions after the
other; values lie position by position. What attends to single queries (`attention/outputs.py`)
adds up such rows where they are; what reads a prompt has its keys turned.

Shape letters, this file only:
    P = blocks          B = positions of a block   S = slots, P x B
    T = packed tokens   C = positions of a sequence
    K = key/value heads H = head width             N = query heads
    R = sequences       M = blocks of each         E = elements of an index
"""

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from purvey.engine.blocks import BlockId
from purvey.engine.untouched import untouched_zeros
from purvey.errors import SettingError
from purvey.models.config import DecoderConfig

BLOCK_TOKENS = 16
_BYTES_PER_FLOAT = 4


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a sequence's positions lie: block by block, slot by slot, or as a run of neighbours.

    Args:
        blocks: Blocks that hold the positions, in order.
        num_positions: How many there are.
    """

    blocks: tuple[BlockId, ...]
    num_positions: int

    @cached_property
    def slots_C(self) -> Tensor:  # noqa: N802 (tensors carry their axes)
        """Slot of every position (int64)."""
        starts = torch.tensor(self.blocks, dtype=torch.int64)[:, None] * BLOCK_TOKENS
        return (starts + torch.arange(BLOCK_TOKENS)).flatten()[: self.num_positions]

    @cached_property
    def first_slot(self) -> int | None:
        """Slot of position 0 when all others follow it, else None."""
        is_run = all(after - before == 1 for before, after in itertools.pairwise(self.blocks))
        return self.blocks[0] * BLOCK_TOKENS if is_run else None

    def slot(self, position: int) -> int:
        """Return the slot of one position."""
        return self.blocks[position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS


class Places(Protocol):
    """A cache as those see it who plan and pack."""

    @property
    def num_blocks(self) -> int:
        """Blocks of `BLOCK_TOKENS` positions."""
        ...

    def place(self, blocks: list[BlockId], num_positions: int) -> Place:
        """Locate the first `num_positions` of a sequence that holds `blocks` in this order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Where packed tokens go: their slots, and each as a block and a place in it (int64)."""

    slots_T: Tensor  # noqa: N815 (tensors carry their axes)
    blocks_T: Tensor  # noqa: N815 (tensors carry their axes)
    places_T: Tensor  # noqa: N815 (tensors carry their axes)


class KVCache:
    """Keys and values of all blocks, float32 on CPU.

    Args:
        config: The decoder's shape.
        num_blocks: Blocks of `BLOCK_TOKENS` positions; memory is touched only when written.
    """

    def __init__(self, config: DecoderConfig, *, num_blocks: int) -> None:
        self.num_blocks, self.config = num_blocks, config
        num_heads, self._head_size = config.num_kv_heads, config.head_size
        self._num_heads = num_heads
        self.queries_per_key = config.num_heads // num_heads
        keys = (num_blocks, num_heads, config.head_size, BLOCK_TOKENS)
        values = (num_blocks * BLOCK_TOKENS, num_heads, config.head_size)
        self._k_PKHB = [untouched_zeros(keys) for _ in range(config.num_layers)]
        self._v_SKH = [untouched_zeros(values) for _ in range(config.num_layers)]
        heads_N = torch.arange(config.num_heads, dtype=torch.int32) // self.queries_per_key
        self._heads_N11 = heads_N[:, None, None]
        self._elements_H = torch.arange(config.head_size, dtype=torch.int32)

    @property
    def num_bytes(self) -> int:
        """Memory of all pools when every block has been used."""
        return sum(pool.nbytes for pool in (*self._k_PKHB, *self._v_SKH))

    def place(self, blocks: list[BlockId], num_positions: int) -> Place:
        """Locate the first `num_positions` of a sequence that holds `blocks` in this order."""
        return place_of(blocks, num_positions)

    def slots(self, slots_T: Tensor) -> Slots:
        """Prepare to write packed tokens, the same in every layer."""
        return Slots(
            slots_T=slots_T, blocks_T=slots_T // BLOCK_TOKENS, places_T=slots_T % BLOCK_TOKENS
        )

    def write(self, layer: int, slots: Slots, k_TKH: Tensor, v_TKH: Tensor) -> None:
        """Store keys and values of packed tokens at their slots."""
        k_PBKH = self._k_PKHB[layer].permute(0, 3, 1, 2)
        k_PBKH.index_put_((slots.blocks_T, slots.places_T), k_TKH)
        self._v_SKH[layer].index_copy_(0, slots.slots_T, v_TKH)

    def read(self, layer: int, place: Place) -> tuple[Tensor, Tensor]:
        """Return `k_KCH`, a copy, and `v_KCH` of a sequence; a view if its slots are neighbours."""
        length = len(place.slots_C)
        blocks = place.slots_C[::BLOCK_TOKENS] // BLOCK_TOKENS
        k_PKHB, v_SKH = self._k_PKHB[layer], self._v_SKH[layer]
        if place.first_slot is None:
            k_PKHB, v_CKH = k_PKHB.index_select(0, blocks), v_SKH.index_select(0, place.slots_C)
        else:
            k_PKHB = k_PKHB.narrow(0, place.first_slot // BLOCK_TOKENS, len(blocks))
            v_CKH = v_SKH.narrow(0, place.first_slot, length)
        k_KSH = k_PKHB.permute(1, 0, 3, 2).reshape(self._num_heads, -1, self._head_size)
        return k_KSH[:, :length], v_CKH.transpose(0, 1)

    def rows(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys as rows of `B` positions, values as rows of `H` elements; views."""
        keys, values = self._k_PKHB[layer], self._v_SKH[layer]
        return keys.view(-1, BLOCK_TOKENS), values.view(-1, self._head_size)

    def key_rows(self, table_RM: Tensor) -> Tensor:
        """Return which `rows` hold the keys of blocks, `index_E` over sequence, head, block, H."""
        heads_RNM1 = (table_RM[:, None] * self._num_heads)[..., None] + self._heads_N11
        return (heads_RNM1 * self._head_size + self._elements_H).flatten()

    def value_rows(self, slots_RC: Tensor) -> Tensor:
        """Return which `rows` hold the values of slots, `index_E` over sequence, head, slot."""
        return (slots_RC[:, None] * self._num_heads + self._heads_N11[..., 0]).flatten()


def place_of(blocks: list[BlockId], num_positions: int) -> Place:
    """Locate the first `num_positions` of a sequence that holds `blocks` in this order."""
    num_blocks = -(-num_positions // BLOCK_TOKENS)
    return Place(blocks=tuple(blocks[:num_blocks]), num_positions=num_positions)


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
