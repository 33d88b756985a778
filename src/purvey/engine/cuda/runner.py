"""Runs one step on a CUDA device: launched kernel by kernel, or replayed where it can be."""

import torch

from purvey.engine.batch import Batch
from purvey.engine.cuda.attention import CudaAttention, Splitting, tile
from purvey.engine.cuda.cache import CudaCache
from purvey.engine.cuda.decoder import CudaDecoder, Rows
from purvey.engine.cuda.graphs import Graph, GraphSize, graph_size
from purvey.engine.cuda.logits import Best, CudaLogits, StepLogits, best_of
from purvey.engine.kv_cache import BLOCK_TOKENS


class CudaRunner:
    """A decoder and its cache on one device.

    A row's logits have the same bits in every batch, captured or not: the kernels and their
    shapes are the same, and rows that fill a graph up touch nothing of the others.

    Args:
        decoder: On its device.
        cache: On the same device.
        max_positions: Longest sequence.
        has_graphs: Whether steps are captured; without, each kernel is launched by itself.
    """

    def __init__(
        self,
        decoder: CudaDecoder,
        cache: CudaCache,
        *,
        max_positions: int,
        has_graphs: bool = True,
    ) -> None:
        self._decoder, self.cache, self._has_graphs = decoder, cache, has_graphs
        self._table_size = -(-max_positions // BLOCK_TOKENS)
        self._max_positions = max_positions
        self._splitting = Splitting.over(max_positions)
        self._graphs: dict[GraphSize, Graph] = {}

    @property
    def layers(self) -> int:
        """Return 0: its steps are counted alone."""
        return 0

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[CudaLogits]:
        """Return the logits of each span's wanted rows; valid until the next run."""
        size = self._graph_size(batch)
        best = self._launch(batch) if size is None else self._replay(batch, size)
        return StepLogits(best).split([len(span.wanted) for span in batch.spans])

    def release(self, request_id: str) -> None:
        """Do nothing: blocks are all that a sequence holds here."""

    def _graph_size(self, batch: Batch) -> GraphSize | None:
        if not self._has_graphs:
            return None
        return graph_size(batch, self._splitting, max_positions=self._max_positions)

    def _replay(self, batch: Batch, size: GraphSize) -> Best:
        if size not in self._graphs:
            self._graphs[size] = Graph(
                size, self._decoder, self.cache, self._splitting, table_size=self._table_size
            )
        return self._graphs[size].replay(batch)

    def _launch(self, batch: Batch) -> Best:
        device = self._decoder.device
        tiling = tile(batch.spans, self._splitting, device, table_size=self._table_size)
        rows = Rows(
            tokens_T=batch.tokens_T.to(device, non_blocking=True),
            positions_T=batch.positions_T.to(device, non_blocking=True),
            slots_T=batch.slots_T.to(device, non_blocking=True),
            wanted_R=batch.wanted_R.to(device, non_blocking=True),
        )
        attend = CudaAttention(self.cache, self._decoder.config, tiling, self._splitting)
        return best_of(self._decoder.logits(rows, self.cache, attend))
