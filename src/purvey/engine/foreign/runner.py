"""Runs one step through a network of `transformers`: each sequence by itself, tile by tile.

Every sequence has a key/value cache of its own, and rows of two sequences never meet in one
operation. A prompt is fed in the tiles of `batch.py`, an output one token at a time, so the
shapes of a row's arithmetic, and with them its bits, depend on its own sequence alone: not on
its neighbours, not on how its prompt was split between steps, not on a preemption.

The blocks of the loop only count here: they bound what all caches hold together. They cannot be
shared, so there is no prefix cache.

Shape letters, this file only:
    Q = positions of one tile   V = vocabulary   R = wanted rows
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from purvey.engine.batch import TILE_TOKENS, Batch, Span, tiles_of
from purvey.engine.blocks import BlockId
from purvey.engine.kv_cache import BLOCK_TOKENS, Place, place_of
from purvey.engine.logits import HostLogits
from purvey.engine.request import Sequence
from purvey.errors import InternalError, SettingError
from purvey.models.foreign import ForeignModel

if TYPE_CHECKING:
    from transformers import DynamicCache


class CountedBlocks:
    """Blocks that hold nothing: how much all caches of the sequences may hold together.

    Args:
        num_blocks: Blocks of `BLOCK_TOKENS` positions.
        block_bytes: What the keys and values of one block's positions take.
    """

    def __init__(self, *, num_blocks: int, block_bytes: int) -> None:
        self.num_blocks, self._block_bytes = num_blocks, block_bytes

    @property
    def num_bytes(self) -> int:
        """Memory of all keys and values when every block is used."""
        return self.num_blocks * self._block_bytes

    def place(self, blocks: list[BlockId], num_positions: int) -> Place:
        """Locate the first `num_positions` of a sequence that holds `blocks` in this order."""
        return place_of(blocks, num_positions)


class TransformersRunner:
    """A network of `transformers`, float32 on CPU, and the caches of the sequences it runs.

    Invariant: a cache holds exactly the positions that its sequence was told are computed, or it
    is not used: a step may be repeated.

    Args:
        model: The network.
        kv_cache_bytes: Memory for keys and values of all sequences.

    Raises:
        SettingError: Not even one block fits.
    """

    def __init__(self, model: ForeignModel, *, kv_cache_bytes: int) -> None:
        self._network: Any = model.network
        self._caches: dict[str, DynamicCache] = {}
        block_bytes = BLOCK_TOKENS * self._position_bytes()
        if kv_cache_bytes < block_bytes:
            raise SettingError(
                f"kv_cache_bytes is {kv_cache_bytes}; one block of this model takes {block_bytes}.",
                param="kv_cache_bytes",
                hint="Give it enough for the longest requests that run at the same time.",
            )
        self.cache = CountedBlocks(
            num_blocks=kv_cache_bytes // block_bytes, block_bytes=block_bytes
        )

    @property
    def num_held(self) -> int:
        """Sequences that have a cache."""
        return len(self._caches)

    @property
    def layers(self) -> int:
        """Return 0: its steps are counted alone."""
        return 0

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[HostLogits]:
        """Return the logits of each span's wanted rows, perhaps of none."""
        return [HostLogits(self._run(span)) for span in batch.spans]

    def release(self, request_id: str) -> None:
        """Forget the keys and values of a sequence; harmless when there are none."""
        self._caches.pop(request_id, None)

    def _run(self, span: Span) -> Tensor:
        sequence = span.sequence
        cache = self._caught_up(sequence, span.start)
        parts = [
            self._wanted(span, start, self._feed(sequence, cache, start, end))
            for start, end in tiles_of(span.start, span.end, sequence.num_prompt)
        ]
        self._caches[sequence.request_id] = cache
        return torch.cat(parts)

    def _caught_up(self, sequence: Sequence, num_positions: int) -> "DynamicCache":
        """Take out a cache of the first positions; what is no such cache is computed anew.

        While it is out, a step that breaks leaves none behind.
        """
        cache = self._caches.pop(sequence.request_id, None)
        if cache is not None and cache.get_seq_length() == num_positions:
            return cache
        cache = self._new_cache()
        for start, end in tiles_of(0, num_positions, sequence.num_prompt):
            self._feed(sequence, cache, start, end)
        return cache

    def _new_cache(self) -> "DynamicCache":
        from transformers import DynamicCache

        return DynamicCache(config=self._network.config)

    def _feed(self, sequence: Sequence, cache: "DynamicCache", start: int, end: int) -> Tensor:
        """Compute one tile behind what the cache holds; return `logits_QV`."""
        tokens_1Q = torch.tensor([sequence.tokens[start:end]], dtype=torch.int64)
        found = self._network(input_ids=tokens_1Q, past_key_values=cache, use_cache=True)
        logits_1QV: Tensor = found.logits
        return logits_1QV[0].float()

    @staticmethod
    def _wanted(span: Span, start: int, logits_QV: Tensor) -> Tensor:
        """Return the rows of a tile that somebody reads; they are consecutive."""
        wanted = span.wanted
        first = max(wanted.start, start) - start
        last = min(wanted.stop, start + len(logits_QV)) - start
        return logits_QV[first : max(first, last)]

    @torch.inference_mode()
    def _position_bytes(self) -> int:
        """Return what one more position takes, as a first tile shows it."""
        cache = self._new_cache()
        tokens_1Q = torch.zeros((1, TILE_TOKENS), dtype=torch.int64)
        self._network(input_ids=tokens_1Q, past_key_values=cache, use_cache=True)
        held = [
            tensor.nbytes
            for layer in cache.layers
            for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
            if isinstance(tensor, Tensor)
        ]
        if not sum(held):
            raise InternalError("the network's cache holds no keys and values")
        return -(-sum(held) // TILE_TOKENS)
