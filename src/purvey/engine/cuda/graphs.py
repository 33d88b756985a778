"""A step that only extends outputs, captured once for a number of rows and replayed.

Shape letters, this file only:
    T = rows   V = vocabulary   B = blocks of a sequence
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from purvey.engine.batch import Batch
from purvey.engine.blocks import BlockId
from purvey.engine.cuda.attention import CudaAttention, Splitting, Tiling
from purvey.engine.cuda.cache import CudaCache
from purvey.engine.cuda.decoder import CudaDecoder, Rows
from purvey.engine.cuda.logits import Best, best_of

GRAPH_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_FIELDS = 7
"""Numbers of a row beside its table: token, position, slot, and its tile's four."""


@dataclass(frozen=True, kw_only=True)
class GraphSize:
    """What a graph takes: rows, and splits of the longest sequence."""

    num_rows: int
    num_splits: int


def graph_size(batch: Batch, splitting: Splitting, *, max_positions: int) -> GraphSize | None:
    """Return the smallest graph that takes a batch; None where it does more than extend outputs."""
    extends_outputs = all(
        span.num_tokens == 1 and span.start >= span.sequence.num_prompt and len(span.wanted) == 1
        for span in batch.spans
    )
    if not extends_outputs or len(batch.spans) > GRAPH_ROWS[-1]:
        return None
    num_rows = next(size for size in GRAPH_ROWS if size >= len(batch.spans))
    needed = splitting.count(max(span.end for span in batch.spans))
    most = splitting.count(max_positions)
    num_splits = next((size for size in (1, 4) if needed <= size < most), most)
    return GraphSize(num_rows=num_rows, num_splits=num_splits)


class Graph:
    """A captured step; rows that nobody asked for write to the spare block.

    Args:
        size: What it takes.
        decoder: What computes.
        cache: Whose blocks are read and written.
        splitting: Where keys are split.
        table_size: Blocks of the longest sequence.
    """

    def __init__(
        self,
        size: GraphSize,
        decoder: CudaDecoder,
        cache: CudaCache,
        splitting: Splitting,
        *,
        table_size: int,
    ) -> None:
        num_rows, self._spare_slot = size.num_rows, cache.spare_slot
        self._host = torch.zeros(num_rows * (_FIELDS + table_size), dtype=torch.int32).pin_memory()
        self._device = torch.zeros_like(self._host, device=decoder.device)
        self._rows_3T, self._tiles_T4, self._tables_TB = _views(self._host, num_rows)
        self._tiles_T4[:, 0] = self._tiles_T4[:, 3] = torch.arange(num_rows, dtype=torch.int32)
        self._rows_3T[2] = self._spare_slot
        self._shown: list[list[BlockId]] = [[] for _ in range(num_rows)]
        self._device.copy_(self._host)
        rows_3T, tiles_T4, tables_TB = _views(self._device, num_rows)
        tiling = Tiling(
            outputs_A4=tiles_T4,
            prompts_A4=tiles_T4[:0],
            tables_LB=tables_TB,
            num_splits=size.num_splits,
        )
        attend = CudaAttention(cache, decoder.config, tiling, splitting)
        rows = Rows(tokens_T=rows_3T[0], positions_T=rows_3T[1], slots_T=rows_3T[2], wanted_R=None)

        def compute() -> Best:
            return best_of(decoder.logits(rows, cache, attend))

        compute()  # kernels are compiled before anything is captured
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._best = compute()

    def replay(self, batch: Batch) -> Best:
        """Return what the step computed, for the rows of the batch."""
        num_rows = len(batch.spans)
        self._fill(batch, num_rows)
        self._device.copy_(self._host, non_blocking=True)
        self._graph.replay()
        return self._best.first(num_rows)

    def _fill(self, batch: Batch, num_rows: int) -> None:
        rows_3T, tiles_T4 = self._rows_3T, self._tiles_T4
        rows_3T[0, :num_rows] = batch.tokens_T
        rows_3T[1, :num_rows] = batch.positions_T
        rows_3T[2, :num_rows] = batch.slots_T
        rows_3T[:2, num_rows:] = 0
        rows_3T[2, num_rows:] = self._spare_slot
        tiles_T4[:num_rows, 1] = 1
        tiles_T4[num_rows:, 1] = 0
        tiles_T4[:num_rows, 2] = batch.positions_T
        for row, span in enumerate(batch.spans):
            self._show(row, span.sequence.blocks)

    def _show(self, row: int, blocks: list[BlockId]) -> None:
        """Write a sequence's table, unless it stands there already."""
        if self._shown[row] != blocks:
            self._tables_TB[row, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
            self._shown[row] = list(blocks)


def _views(numbers: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    rows, tiles, tables = torch.split(
        numbers, [3 * num_rows, 4 * num_rows, len(numbers) - _FIELDS * num_rows]
    )
    return rows.view(3, num_rows), tiles.view(num_rows, 4), tables.view(num_rows, -1)
