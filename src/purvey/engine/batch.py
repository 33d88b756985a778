"""The rows of one step, packed: tokens, positions, cache slots, and whose they are.

Shape letters, this file only:
    T = packed tokens   R = rows wanted   G = rows that pictures give   D = residual width
"""

from collections.abc import Iterator
from collections.abc import Sequence as Listed
from dataclasses import dataclass

import torch
from torch import Tensor

from purvey.engine.kv_cache import Place, Places
from purvey.engine.request import Sequence

TILE_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Queries that attend together: those of positions `start` to `end`, from `first_row` on."""

    first_row: int
    start: int
    end: int

    @property
    def num_queries(self) -> int:
        """Rows of the tile."""
        return self.end - self.start


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
class Given:
    """Rows of a step that are no tokens: which (int64), and as they enter the first layer."""

    rows_G: Tensor  # noqa: N815 (tensors carry their axes)
    x_GD: Tensor  # noqa: N815 (tensors carry their axes)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's input; `wanted_R` are the rows whose logits somebody reads."""

    tokens_T: Tensor  # noqa: N815 (tensors carry their axes)
    positions_T: Tensor  # noqa: N815 (tensors carry their axes)
    slots_T: Tensor  # noqa: N815 (tensors carry their axes)
    wanted_R: Tensor  # noqa: N815 (tensors carry their axes)
    spans: tuple[Span, ...]
    given: Given | None = None


def build_batch(chunks: Listed[tuple[Sequence, int]], cache: Places) -> Batch:
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
    positions = [position for s in spans for position in range(s.start, s.end)]
    slots = [s.place.slot(position) for s in spans for position in range(s.start, s.end)]
    wanted = [s.first_row + position - s.start for s in spans for position in s.wanted]
    return Batch(
        tokens_T=torch.tensor(tokens, dtype=torch.int64),
        positions_T=torch.tensor(positions, dtype=torch.int64),
        slots_T=torch.tensor(slots, dtype=torch.int64),
        wanted_R=torch.tensor(wanted, dtype=torch.int64),
        spans=tuple(spans),
        given=_given(spans),
    )


def _given(spans: Listed[Span]) -> Given | None:
    """Gather what pictures give, if any stands in the step."""
    rows: list[int] = []
    parts: list[Tensor] = []
    for span in spans:
        picture = span.sequence.picture
        end = min(span.end, span.sequence.num_pictured)
        if picture is not None and span.start < end:
            rows += range(span.first_row, span.first_row + end - span.start)
            parts.append(picture.x_ND[span.start : end])
    if not parts:
        return None
    return Given(rows_G=torch.tensor(rows, dtype=torch.int64), x_GD=torch.cat(parts))


def _span(sequence: Sequence, num_tokens: int, first_row: int, cache: Places) -> Span:
    start = sequence.num_cached
    end = start + num_tokens
    tiles = [
        Tile(first_row=first_row + first - start, start=first, end=last)
        for first, last in tiles_of(start, end, sequence.num_prompt)
    ]
    return Span(
        sequence=sequence,
        first_row=first_row,
        start=start,
        num_tokens=num_tokens,
        place=cache.place(sequence.blocks, end),
        tiles=tuple(tiles),
    )


def tiles_of(start: int, end: int, num_prompt: int) -> Iterator[tuple[int, int]]:
    """Cut positions from `start` to `end` into those that are computed together."""
    while start < end:
        tile_end = min(_tile_end(start, num_prompt), end)
        yield start, tile_end
        start = tile_end


def _tile_end(position: int, num_prompt: int) -> int:
    """Return where the tile of a position ends; past the prompt, each has one of its own.

    Outputs are computed one by one as they come, so after a preemption they are again.
    """
    if position >= num_prompt:
        return position + 1
    return min((position // TILE_TOKENS + 1) * TILE_TOKENS, num_prompt)
