"""Attention over the paged cache on a CUDA device: prompts in tiles, outputs row by row.

A position of a prompt is computed in the tile that starts at a multiple of `TILE_TOKENS`, a
position of an output as a tile of its own whose keys are read in splits of constant size. Which
of the two is decided by the position alone, so its bits do not depend on its step.

Shape letters, this file only:
    T = rows   N = query heads   H = head width   A = tiles   B = blocks of a sequence
    S = splits   L = sequences
"""

from collections.abc import Sequence as Listed
from dataclasses import dataclass

import torch
from torch import Tensor

from purvey.engine.batch import TILE_TOKENS, Span
from purvey.engine.cuda.cache import CudaCache
from purvey.engine.cuda.kernels import attend, combine
from purvey.engine.cuda.linear import block_over
from purvey.engine.kv_cache import BLOCK_TOKENS
from purvey.models.attention.base import AttentionRule
from purvey.models.config import DecoderConfig

_MIN_DOT_ROWS = 16
_KEYS = {torch.bfloat16: 64, torch.float32: 32}
_MIN_SPLIT = 256
_MAX_SPLITS = 32


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """The tiles of one step.

    Args:
        outputs_A4: Tiles of one query: first row, queries, first position, row of the table; int32.
        prompts_A4: Tiles of prompts, likewise.
        tables_LB: Blocks of each sequence in order; int32.
        num_splits: How many splits the longest sequence of `outputs_A4` has, at least. Where it is
            one, nothing is left to combine: the bits are the same.
    """

    outputs_A4: Tensor  # noqa: N815 (tensors carry their axes)
    prompts_A4: Tensor  # noqa: N815 (tensors carry their axes)
    tables_LB: Tensor  # noqa: N815 (tensors carry their axes)
    num_splits: int


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """Where the keys of an output's positions are split: at multiples of `size`."""

    size: int

    @classmethod
    def over(cls, max_positions: int) -> "Splitting":
        """Choose for sequences of at most `max_positions`."""
        return cls(size=max(_MIN_SPLIT, block_over(-(-max_positions // _MAX_SPLITS))))

    def count(self, num_positions: int) -> int:
        """Count the splits of a sequence."""
        return -(-num_positions // self.size)


def tile(
    spans: Listed[Span], splitting: Splitting, device: torch.device, *, table_size: int
) -> Tiling:
    """Lay out the tiles of a step."""
    outputs: list[tuple[int, int, int, int]] = []
    prompts: list[tuple[int, int, int, int]] = []
    longest = 1
    for number, span in enumerate(spans):
        num_prompt = span.sequence.num_prompt
        for one in span.tiles:
            whole = range(max(one.start, num_prompt), one.end)
            if one.start < num_prompt:
                num_queries = min(one.end, num_prompt) - one.start
                prompts.append((one.first_row, num_queries, one.start, number))
            for position in whole:
                outputs.append((one.first_row + position - one.start, 1, position, number))
                longest = max(longest, position + 1)
    tables = torch.zeros((len(spans), table_size), dtype=torch.int32)
    for number, span in enumerate(spans):
        blocks = span.sequence.blocks
        tables[number, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
    return Tiling(
        outputs_A4=_on(device, outputs),
        prompts_A4=_on(device, prompts),
        tables_LB=tables.to(device, non_blocking=True),
        num_splits=splitting.count(longest),
    )


class CudaAttention:
    """Attention of one step, called once per layer after its keys and values are stored."""

    def __init__(
        self, cache: CudaCache, config: DecoderConfig, tiling: Tiling, splitting: Splitting
    ) -> None:
        self._cache, self._tiling, self._splitting = cache, tiling, splitting
        self._num_heads, self._num_kv_heads = config.num_heads, config.num_kv_heads
        self._head_size = config.head_size

    def __call__(self, layer: int, q_TNH: Tensor, rule: AttentionRule) -> Tensor:
        """Return `out_TNH`."""
        out_TNH = torch.empty_like(q_TNH)
        if len(self._tiling.prompts_A4):
            group = self._num_heads // self._num_kv_heads
            rows = block_over(max(_MIN_DOT_ROWS, TILE_TOKENS * group))
            self._attend(layer, q_TNH, out_TNH, rule, self._tiling.prompts_A4, num_rows=rows)
        if len(self._tiling.outputs_A4):
            self._attend_outputs(layer, q_TNH, out_TNH, rule)
        return out_TNH

    def _attend_outputs(
        self, layer: int, q_TNH: Tensor, out_TNH: Tensor, rule: AttentionRule
    ) -> None:
        group = self._num_heads // self._num_kv_heads
        rows = block_over(max(_MIN_DOT_ROWS, group))
        tiles_A4, num_splits = self._tiling.outputs_A4, self._tiling.num_splits
        if num_splits == 1:
            self._attend(layer, q_TNH, out_TNH, rule, tiles_A4, num_rows=rows)
            return
        parts_STNH = torch.empty((num_splits, *q_TNH.shape), device=q_TNH.device)
        logsums_STN = torch.empty((num_splits, *q_TNH.shape[:2]), device=q_TNH.device)
        self._attend(
            layer, q_TNH, out_TNH, rule, tiles_A4, num_rows=rows, parts=(parts_STNH, logsums_STN)
        )
        combine[(len(tiles_A4), self._num_heads)](
            parts_STNH,
            logsums_STN,
            tiles_A4,
            out_TNH,
            len(q_TNH),
            self._splitting.size,
            rule.window or 0,
            NUM_HEADS=self._num_heads,
            HEAD_SIZE=self._head_size,
            BLOCK_H=block_over(self._head_size),
            BLOCK_C=_KEYS[q_TNH.dtype],
            HAS_WINDOW=rule.window is not None,
            num_warps=1,
        )

    def _attend(
        self,
        layer: int,
        q_TNH: Tensor,
        out_TNH: Tensor,
        rule: AttentionRule,
        tiles_A4: Tensor,
        *,
        num_rows: int,
        parts: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        k_KSH, v_KSH = self._cache.pools(layer)
        num_splits = 1 if parts is None else self._tiling.num_splits
        attend[(len(tiles_A4), self._num_kv_heads, num_splits)](
            q_TNH,
            k_KSH,
            v_KSH,
            tiles_A4,
            self._tiling.tables_LB,
            out_TNH,
            *((out_TNH, out_TNH) if parts is None else parts),
            len(q_TNH),
            k_KSH.shape[1],
            self._tiling.tables_LB.shape[1],
            self._splitting.size,
            rule.scale,
            rule.softcap or 1.0,
            rule.window or 0,
            NUM_HEADS=self._num_heads,
            NUM_KV_HEADS=self._num_kv_heads,
            HEAD_SIZE=self._head_size,
            BLOCK_TOKENS=BLOCK_TOKENS,
            BLOCK_H=max(_MIN_DOT_ROWS, block_over(self._head_size)),
            BLOCK_X=num_rows,
            BLOCK_C=_KEYS[q_TNH.dtype],
            HAS_WINDOW=rule.window is not None,
            HAS_SOFTCAP=rule.softcap is not None,
            IS_SPLIT=parts is not None,
            num_warps=4 if num_rows <= 64 else 8,
            num_stages=2,
        )


def _on(device: torch.device, tiles: list[tuple[int, int, int, int]]) -> Tensor:
    if not tiles:
        return torch.empty((0, 4), dtype=torch.int32, device=device)
    return torch.tensor(tiles, dtype=torch.int32).to(device, non_blocking=True)
