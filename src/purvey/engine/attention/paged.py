"""Attention of one step over the paged cache; of prompts, one tile of queries at a time.

Tested against `models/attention/reference.py`. A tile holds the queries of positions
`[i * TILE_TOKENS, (i + 1) * TILE_TOKENS)`, or the part of them that is known, and sees keys
up to its own last position; so the shapes, and with them the bits, of a query's attention
depend on its own position and its prompt's length, never on how the prompt was split
between steps (the scheduler splits at tiles only) nor on other sequences. Past the prompt each
query is a tile of its own, whether its token was just decoded or is read again after a preemption:
`outputs.py` computes these, of all sequences together.

Shape letters, this file only:
    T = packed tokens   N = query heads    K = key/value heads   G = N / K query heads each
    H = head width      Q = queries of one tile   C = positions the tile sees   X = G x Q
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from purvey.engine.attention.outputs import Output, OutputAttention
from purvey.engine.batch import Batch, Span, Tile
from purvey.engine.kv_cache import KVCache
from purvey.models.attention.base import AttentionRule, capped, visible


class PagedAttention:
    """The decoder's attention for one step; a float32 CPU implementation of `Attention`.

    Args:
        cache: Where earlier keys and values are, and the new ones go.
        batch: Which rows belong to which sequence.
    """

    def __init__(self, cache: KVCache, batch: Batch) -> None:
        self._cache, self._slots = cache, cache.slots(batch.slots_T)
        self._masks: dict[tuple[int, int, int | None], Tensor | None] = {}
        self._prompts = [(span, tiles) for span in batch.spans if (tiles := _of_prompt(span))]
        self._outputs = [output for span in batch.spans for output in _of_output(span)]
        self._by_window: dict[int | None, OutputAttention] = {}

    def __call__(
        self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, rule: AttentionRule
    ) -> Tensor:
        """Store the new keys and values, then return `out_TNH`."""
        self._cache.write(layer, self._slots, k_TKH, v_TKH)
        out_TNH = q_TNH.new_empty(q_TNH.shape)
        if self._outputs:
            self._of_window(rule.window)(layer, q_TNH, out_TNH, rule)
        for span, tiles in self._prompts:
            k_KCH, v_KCH = self._cache.read(layer, span.place)
            for tile in tiles:
                seen = slice(_first_visible(tile, rule.window), tile.end)
                rows = slice(tile.first_row, tile.first_row + tile.num_queries)
                mask_XC = self._mask(tile, rule.window)
                attended = (q_TNH[rows], k_KCH[:, seen], v_KCH[:, seen], mask_XC, rule)
                out_TNH[rows] = _attend_tile(*attended)
        return out_TNH

    def _of_window(self, window: int | None) -> OutputAttention:
        if window not in self._by_window:
            self._by_window[window] = OutputAttention(self._cache, self._outputs, window)
        return self._by_window[window]

    def _mask(self, tile: Tile, window: int | None) -> Tensor | None:
        """Return who sees whom, its rows repeated for each query head of a group.

        None for a single query, which sees all that is read. All layers of a step with the same
        window share it.
        """
        if tile.num_queries == 1:
            return None
        first = _first_visible(tile, window)
        key = (tile.start, tile.end, window)
        if key not in self._masks:
            queries_Q = torch.arange(tile.start, tile.end)
            mask_QC = visible(queries_Q, torch.arange(first, tile.end), window)
            self._masks[key] = mask_QC.repeat(self._cache.queries_per_key, 1)
        return self._masks[key]


def _of_prompt(span: Span) -> list[Tile]:
    return [tile for tile in span.tiles if tile.start < span.sequence.num_prompt]


def _of_output(span: Span) -> list[Output]:
    return [
        Output(row=tile.first_row, position=tile.start, place=span.place)
        for tile in span.tiles
        if tile.start >= span.sequence.num_prompt
    ]


def _first_visible(tile: Tile, window: int | None) -> int:
    """Return the first position that any query of the tile sees."""
    return 0 if window is None else max(0, tile.start - window + 1)


def _attend_tile(
    q_QNH: Tensor, k_KCH: Tensor, v_KCH: Tensor, mask_XC: Tensor | None, rule: AttentionRule
) -> Tensor:
    num_queries, num_heads, head_size = q_QNH.shape
    num_kv_heads = k_KCH.shape[0]
    # The query heads of a group become further queries of their key head: no copy of keys.
    q_QKGH = q_QNH.view(num_queries, num_kv_heads, -1, head_size)
    q_1KXH = q_QKGH.permute(1, 2, 0, 3).reshape(1, num_kv_heads, -1, head_size)
    out_1KXH = _attend_heads(q_1KXH, k_KCH[None], v_KCH[None], mask_XC, rule)
    out_KGQH = out_1KXH.view(num_kv_heads, -1, num_queries, head_size)
    return out_KGQH.permute(2, 0, 1, 3).reshape(num_queries, num_heads, head_size)


def _attend_heads(
    q_1KXH: Tensor, k_1KCH: Tensor, v_1KCH: Tensor, mask_XC: Tensor | None, rule: AttentionRule
) -> Tensor:
    if rule.softcap is None:
        return scaled_dot_product_attention(
            q_1KXH, k_1KCH, v_1KCH, attn_mask=mask_XC, scale=rule.scale
        )
    scores_1KXC = capped(q_1KXH @ k_1KCH.transpose(-1, -2) * rule.scale, rule.softcap)
    if mask_XC is not None:
        scores_1KXC = scores_1KXC.masked_fill(~mask_XC, float("-inf"))
    return scores_1KXC.softmax(-1) @ v_1KCH
