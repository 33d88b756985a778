"""The engine's paged attention against the reference: grouped heads, scattered blocks, tiles."""

from typing import Any

import pytest
import torch
from torch import Tensor

from purvey.engine.attention import PagedAttention
from purvey.engine.batch import TILE_TOKENS, build_batch
from purvey.engine.kv_cache import BLOCK_TOKENS, KVCache
from purvey.engine.request import Sequence
from purvey.models.attention.base import AttentionRule
from purvey.models.attention.reference import paged_attention
from purvey.models.config import DecoderConfig

HEAD_SIZE, NUM_BLOCKS = 8, 16
# A weighted mean of at most 150 values of order one, its weights from sums of 8 products:
# float32 in another order moves it by less than 150 x 2^-24 x 4 = 4e-5; seen: 5e-7.
TOLERANCE = 1e-5


def _sequence(name: str, *, cached: int, pending: int, blocks: list[Any]) -> Sequence:
    tokens = [0] * (cached + pending)
    return Sequence(
        request_id=name,
        tokens=tokens,
        num_prompt=len(tokens),
        max_new_tokens=1,
        num_cached=cached,
        blocks=blocks,
    )


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


RULES = {
    "plain": AttentionRule(scale=HEAD_SIZE**-0.5),
    "window": AttentionRule(scale=0.3, window=17),
    "window of one": AttentionRule(scale=0.3, window=1),
    "wide window": AttentionRule(scale=0.3, window=10_000),
    "capped window": AttentionRule(scale=0.3, window=40, softcap=1.5),
    "capped": AttentionRule(scale=0.3, softcap=1.5),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_a_mixed_step_equals_the_reference(num_heads: int, num_kv_heads: int, rule: str) -> None:
    config = DecoderConfig(
        vocabulary_size=1,
        hidden_size=num_heads * HEAD_SIZE,
        mlp_size=1,
        num_layers=2,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=HEAD_SIZE,
        context_tokens=NUM_BLOCKS * BLOCK_TOKENS,
    )
    cache = KVCache(config, num_blocks=NUM_BLOCKS)
    sequences = [
        _sequence("decodes", cached=40, pending=1, blocks=[9, 2, 14]),
        _sequence("starts", cached=0, pending=2 * TILE_TOKENS + 3, blocks=[0, 1, 3, 5, 4]),
        _sequence("goes on", cached=TILE_TOKENS, pending=70, blocks=[6, 7, 8, 10, 11, 12, 13]),
        _sequence("is one token", cached=0, pending=1, blocks=[15]),
    ]
    pools = [_random(NUM_BLOCKS * BLOCK_TOKENS, num_kv_heads, HEAD_SIZE) for _ in range(2)]
    cache.write(1, torch.arange(NUM_BLOCKS * BLOCK_TOKENS), *pools)
    batch = build_batch([(s, s.num_pending) for s in sequences], cache)
    num_rows = len(batch.tokens_T)
    q_TNH = _random(num_rows, num_heads, HEAD_SIZE)
    k_TKH, v_TKH = (_random(num_rows + i, num_kv_heads, HEAD_SIZE)[:num_rows] for i in (0, 1))
    found = PagedAttention(cache, batch)(1, q_TNH, k_TKH, v_TKH, RULES[rule])
    for pool, new in zip(pools, (k_TKH, v_TKH), strict=True):
        pool[batch.slots_T] = new
    k_PBKH, v_PBKH = (p.view(NUM_BLOCKS, BLOCK_TOKENS, num_kv_heads, HEAD_SIZE) for p in pools)
    expected = paged_attention(
        q_TNH,
        k_PBKH,
        v_PBKH,
        tables=[torch.tensor(s.blocks) for s in sequences],
        starts=[s.num_cached for s in sequences],
        lengths=[s.num_pending for s in sequences],
        rule=RULES[rule],
    )
    assert (found - expected).abs().max() < TOLERANCE
