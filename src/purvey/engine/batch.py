"""The rows of one step, packed: tokens, positions, cache slots, and whose they are.

Shape letters, this file only:
    T = packed tokens   Q = queries of one tile   C = positions the tile sees   R = rows wanted
    X = Q x query heads per key head
"""

from collections.abc import Sequence as Listed
from dataclasses import dataclass

import torch
from torch import Tensor

from purvey.engine.kv_cache import KVCache, Place
from purvey.engine.request import Sequence

TILE_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Queries that attend together: rows `first_row` to `end_row`, seeing `num_visible` positions.

    `mask_XC` is true where a query may look, its rows repeated for each query head of a group;
    None for a single query, which sees everything.
    """

    first_row: int
    end_row: int
    num_visible: int
    mask_XC: Tensor | None  # noqa: N815 (tensors carry their axes)


@dataclass(frozen=True, kw_only=True)
class Span:
    """The rows of one sequence: `num_tokens` from `first_row`, from position `start` on."""

    sequence: Sequence
    first_row: int
    start: int
    num_tokens: int
    place: Place
    tiles: tuple[Tile, ...]

    @property
    def end(self) -> int:
        """Positions cached once the step is done."""
        return self.start + self.num_tokens

    @property
    def wanted(self) -> range:
        """Positions of this step whose logits somebody reads."""
        return self.sequence.wanted_positions(self.start, self.end)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's input; `wanted_R` are the rows whose logits somebody reads."""

    tokens_T: Tensor  # noqa: N815 (tensors carry their axes)
    positions_T: Tensor  # noqa: N815 (tensors carry their axes)
    slots_T: Tensor  # noqa: N815 (tensors carry their axes)
    wanted_R: Tensor  # noqa: N815 (tensors carry their axes)
    spans: tuple[Span, ...]


def build_batch(chunks: Listed[tuple[Sequence, int]], cache: KVCache) -> Batch:
    """Pack the next `num_tokens` positions of each sequence.

    Args:
        chunks: Sequences with blocks, and how many of their pending tokens to compute.
        cache: Knows where blocks lie.
    """
    spans: list[Span] = []
    first_row = 0
    for sequence, num_tokens in chunks:
        spans.append(_span(sequence, num_tokens, first_row, cache))
        first_row += num_tokens
    tokens = [t for s in spans for t in s.sequence.tokens[s.start : s.end]]
    wanted = [s.first_row + position - s.start for s in spans for position in s.wanted]
    return Batch(
        tokens_T=torch.tensor(tokens, dtype=torch.int64),
        positions_T=torch.cat([torch.arange(s.start, s.end) for s in spans]),
        slots_T=torch.cat([s.place.slots_C[s.start :] for s in spans]),
        wanted_R=torch.tensor(wanted, dtype=torch.int64),
        spans=tuple(spans),
    )


def _span(sequence: Sequence, num_tokens: int, first_row: int, cache: KVCache) -> Span:
    start = sequence.num_cached
    end = start + num_tokens
    tiles: list[Tile] = []
    position = start
    while position < end:
        tile_end = min((position // TILE_TOKENS + 1) * TILE_TOKENS, end)
        row = first_row + position - start
        tiles.append(
            Tile(
                first_row=row,
                end_row=row + tile_end - position,
                num_visible=tile_end,
                mask_XC=_causal(position, tile_end, cache.queries_per_key),
            )
        )
        position = tile_end
    return Span(
        sequence=sequence,
        first_row=first_row,
        start=start,
        num_tokens=num_tokens,
        place=cache.place(sequence.blocks, end),
        tiles=tuple(tiles),
    )


def _causal(start: int, end: int, group: int) -> Tensor | None:
    if end - start == 1:
        return None
    mask_QC = torch.arange(end)[None, :] <= torch.arange(start, end)[:, None]
    return mask_QC.repeat(group, 1)
