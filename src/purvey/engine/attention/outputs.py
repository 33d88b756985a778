"""Attention of output tokens: one query each, of all sequences at once, without copying a block.

Both products are weighted sums of rows of memory, named by index, which is what an embedding bag
computes. Each sum runs through its rows in order, so its bits are those of its own terms: other
sequences, the number of them and where blocks lie make no difference.

    scores of a block's B positions = sum_h q_h * (row h of the block's keys)
    output                          = sum_c p_c * (value of position c)

Rows are computed together when they see about as many blocks. What a shorter one sees less is
given a score of minus infinity: it adds exact zeros behind its sums.

Shape letters, this file only:
    R = rows   N = query heads   K = key/value heads   H = head width   B = positions of a block
    M = blocks that a row sees   C = M x B positions   E = elements of a bag's index
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from purvey.engine.kv_cache import BLOCK_TOKENS, KVCache, Place
from purvey.engine.linears.activation import SERIAL_ELEMENTS
from purvey.models.attention.base import AttentionRule
from purvey.models.config import DecoderConfig

_MOST_ELEMENTS = 2**22
"""Of one index: what is computed together takes no more memory than this many numbers."""
_KEPT_ELEMENTS = 2**23
"""Of all indices that wait for the next layer; where they are more, each layer makes its own."""
_BYTES_PER_NUMBER = 4
_LEAST_BLOCKS = 4
_SUM = 0
"""What `torch.embedding_bag` calls the sum of a bag."""


def workspace_bytes(config: DecoderConfig, *, max_rows: int) -> int:
    """Count what the attention of so many rows holds at once: indices, and what a group computes.

    Every row is taken to see the whole context.
    """
    per_position = 2 * (config.head_size / BLOCK_TOKENS + 1) + 1  # index and weight, and a score
    row = ceil(config.context_tokens * config.num_heads * per_position)
    most = 2 * _KEPT_ELEMENTS + 4 * _MOST_ELEMENTS
    return _BYTES_PER_NUMBER * min(max_rows * row, max(most, row))


@dataclass(frozen=True, kw_only=True)
class Output:
    """A query of its own: its row in the step, its position, where its sequence lies."""

    row: int
    position: int
    place: Place


class OutputAttention:
    """Attention of some rows, for all layers that have one window.

    Args:
        cache: Where keys and values are, those of the rows' own positions among them.
        outputs: The rows.
        window: How many positions a row sees, its own included; None sees all before it.
    """

    def __init__(self, cache: KVCache, outputs: Iterable[Output], window: int | None) -> None:
        self._cache, self._window = cache, window
        self._outputs = list(_groups(cache, outputs, window))
        size = sum(_num_elements(cache, group, window) for group in self._outputs)
        self._kept = list(self._build()) if size <= _KEPT_ELEMENTS else None

    def __call__(self, layer: int, q_TNH: Tensor, out_TNH: Tensor, rule: AttentionRule) -> None:
        """Fill the rows' places in `out_TNH`; keys and values are written already."""
        keys, values = self._cache.rows(layer)
        for group in self._build() if self._kept is None else self._kept:
            out_TNH[group.rows] = group.attended(q_TNH[group.rows], keys, values, rule)

    def _build(self) -> Iterator["_Group"]:
        return (_Group(self._cache, group, self._window) for group in self._outputs)


class _Group:
    """Rows whose indices have one shape."""

    def __init__(self, cache: KVCache, outputs: list[Output], window: int | None) -> None:
        rows = [output.row for output in outputs]
        is_run = rows == list(range(rows[0], rows[0] + len(rows)))
        self.rows = slice(rows[0], rows[0] + len(rows)) if is_run else torch.tensor(rows)
        self._num_blocks = _padded(max(_num_blocks(output, window) for output in outputs))
        tables = [_table(output, window, self._num_blocks) for output in outputs]
        firsts = [[_first_block(output, window) * BLOCK_TOKENS] for output in outputs]
        positions = [[output.position] for output in outputs]
        owns = [[output.place.slot(output.position)] for output in outputs]
        table_RM, first_R1, position_R1, own_R1 = (
            torch.tensor(numbers, dtype=torch.int32)
            for numbers in (tables, firsts, positions, owns)
        )
        places_C = torch.arange(self._num_blocks * BLOCK_TOKENS, dtype=torch.int32)
        seen_RC = first_R1 + places_C
        hidden_RC = seen_RC > position_R1
        if window is not None:
            hidden_RC |= seen_RC <= position_R1 - window
        self._hidden_R1C = hidden_RC[:, None]
        self._keys_E = cache.key_rows(table_RM)
        slots_RMB = table_RM[..., None] * BLOCK_TOKENS + places_C[:BLOCK_TOKENS]
        # What nobody sees may hold anything, and nothing times anything may be no number.
        slots_RC = slots_RMB.flatten(1).where(~hidden_RC, own_R1)
        self._values_E = cache.value_rows(slots_RC)
        self._key_bags = _bags(self._keys_E, cache.config.head_size)
        self._value_bags = _bags(self._values_E, self._num_blocks * BLOCK_TOKENS)

    def attended(self, q_RNH: Tensor, keys: Tensor, values: Tensor, rule: AttentionRule) -> Tensor:
        num_rows, num_heads, head_size = q_RNH.shape
        shape_RNMH = num_rows, num_heads, self._num_blocks, head_size
        q_E = (q_RNH * rule.scale)[:, :, None].expand(shape_RNMH).reshape(-1)
        scores_RNC = _bag_sums(keys, self._keys_E, self._key_bags, q_E)
        scores_RNC = scores_RNC.view(num_rows, num_heads, -1)
        if rule.softcap is not None:
            _cap_(scores_RNC, rule.softcap)
        p_RNC = scores_RNC.masked_fill_(self._hidden_R1C, float("-inf")).softmax(-1)
        out_RNH = _bag_sums(values, self._values_E, self._value_bags, p_RNC.view(-1))
        return out_RNH.view(num_rows, num_heads, head_size)


def _groups(
    cache: KVCache, outputs: Iterable[Output], window: int | None
) -> Iterator[list[Output]]:
    """Put rows together that see about as many blocks, a bounded number of them."""
    by_size: dict[int, list[Output]] = defaultdict(list)
    for output in outputs:
        by_size[_padded(_num_blocks(output, window))].append(output)
    for group in by_size.values():
        step = max(1, _MOST_ELEMENTS // _num_elements(cache, group[:1], window))
        for start in range(0, len(group), step):
            yield group[start : start + step]


def _num_elements(cache: KVCache, group: list[Output], window: int | None) -> int:
    """Count the larger of the two indices of rows that see about as many blocks."""
    size = _padded(_num_blocks(group[0], window)) * max(cache.config.head_size, BLOCK_TOKENS)
    return len(group) * size * cache.config.num_heads


def _first_block(output: Output, window: int | None) -> int:
    return 0 if window is None else max(0, output.position - window + 1) // BLOCK_TOKENS


def _num_blocks(output: Output, window: int | None) -> int:
    return output.position // BLOCK_TOKENS + 1 - _first_block(output, window)


def _table(output: Output, window: int | None, size: int) -> list[int]:
    """Return the blocks that a row sees, in order, then any that exists."""
    first = _first_block(output, window)
    seen = output.place.blocks[first : output.position // BLOCK_TOKENS + 1]
    return [*seen, *(size - len(seen)) * [0]]


def _padded(num_blocks: int) -> int:
    """Round up by an eighth, or to four, so that few sizes are left."""
    step = max(_LEAST_BLOCKS, 1 << num_blocks.bit_length() >> 4)
    return -(-num_blocks // step) * step


def _bags(index_E: Tensor, size: int) -> Tensor:
    return torch.arange(0, len(index_E) + 1, size, dtype=index_E.dtype)


def _bag_sums(rows: Tensor, index_E: Tensor, bags: Tensor, weights_E: Tensor) -> Tensor:
    sums: Tensor
    sums, *_ = torch.embedding_bag(
        rows,
        index_E,
        bags,
        mode=_SUM,
        per_sample_weights=weights_E,
        include_last_offset=True,
    )
    return sums


def _cap_(scores_RNC: Tensor, softcap: float) -> None:
    """Bound scores in place, in pieces that one thread computes and that end with a vector."""
    for piece in torch.split(scores_RNC.view(-1), SERIAL_ELEMENTS):
        piece.div_(softcap).tanh_().mul_(softcap)
