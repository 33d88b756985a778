"""Attention of one step over the paged cache: one sequence, one tile of queries at a time.

Tested against `models/attention/reference.py`. A tile holds the queries of positions
`[i * TILE_TOKENS, (i + 1) * TILE_TOKENS)`, or the part of them that is known, and sees keys
up to its own last position; so the shapes, and with them the bits, of a query's attention
depend on its own position and its prompt's length, never on how the prompt was split
between steps (the scheduler splits at tiles only) nor on other sequences.

Shape letters, this file only:
    T = packed tokens   N = query heads    K = key/value heads   G = N / K query heads each
    H = head width      Q = queries of one tile   C = positions the tile sees   X = G x Q
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from purvey.engine.batch import Batch, Span, Tile
from purvey.engine.kv_cache import KVCache


class PagedAttention:
    """The decoder's attention for one step; a float32 CPU implementation of `Attention`.

    Args:
        cache: Where earlier keys and values are, and the new ones go.
        batch: Which rows belong to which sequence.
    """

    def __init__(self, cache: KVCache, batch: Batch) -> None:
        self._cache, self._batch = cache, batch

    def __call__(self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor) -> Tensor:
        """Store the new keys and values, then return `out_TNH`."""
        self._cache.write(layer, self._batch.slots_T, k_TKH, v_TKH)
        parts = [part for span in self._batch.spans for part in self._attend(layer, span, q_TNH)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend(self, layer: int, span: Span, q_TNH: Tensor) -> list[Tensor]:
        k_KCH, v_KCH = self._cache.read(layer, span.place)
        return [
            _attend_tile(
                q_TNH[tile.first_row : tile.end_row],
                k_KCH[:, : tile.num_visible],
                v_KCH[:, : tile.num_visible],
                tile,
            )
            for tile in span.tiles
        ]


def _attend_tile(q_QNH: Tensor, k_KCH: Tensor, v_KCH: Tensor, tile: Tile) -> Tensor:
    num_queries, num_heads, head_size = q_QNH.shape
    num_kv_heads = k_KCH.shape[0]
    # The query heads of a group become further queries of their key head: no copy of keys.
    q_QKGH = q_QNH.view(num_queries, num_kv_heads, -1, head_size)
    q_1KXH = q_QKGH.permute(1, 2, 0, 3).reshape(1, num_kv_heads, -1, head_size)
    k_1KCH, v_1KCH = k_KCH[None], v_KCH[None]
    out_1KXH = scaled_dot_product_attention(q_1KXH, k_1KCH, v_1KCH, attn_mask=tile.mask_XC)
    out_KGQH = out_1KXH.view(num_kv_heads, -1, num_queries, head_size)
    return out_KGQH.permute(2, 0, 1, 3).reshape(num_queries, num_heads, head_size)
