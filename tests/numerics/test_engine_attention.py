"""The engine's paged attention against the reference: grouped heads, scattered blocks, tiles.

Shape letters, this file only:
    T = packed tokens   N = query heads   K = key/value heads   H = head width
    P = blocks          B = positions of a block
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from purvey.engine.attention import outputs
from purvey.engine.attention.paged import PagedAttention
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


def _sequence(
    name: str, *, cached: int, pending: int, blocks: list[Any], num_prompt: int | None = None
) -> Sequence:
    tokens = [0] * (cached + pending)
    return Sequence(
        request_id=name,
        tokens=tokens,
        num_prompt=len(tokens) if num_prompt is None else num_prompt,
        max_new_tokens=1,
        num_cached=cached,
        blocks=blocks,
    )


def _config(num_heads: int, num_kv_heads: int) -> DecoderConfig:
    return DecoderConfig(
        vocabulary_size=1,
        hidden_size=num_heads * HEAD_SIZE,
        mlp_size=1,
        num_layers=2,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=HEAD_SIZE,
        context_tokens=NUM_BLOCKS * BLOCK_TOKENS,
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
    cache = KVCache(_config(num_heads, num_kv_heads), num_blocks=NUM_BLOCKS)
    sequences = [
        _sequence("decodes", cached=40, pending=1, blocks=[9, 2, 14], num_prompt=33),
        _sequence("starts", cached=0, pending=2 * TILE_TOKENS + 3, blocks=[0, 1, 3, 5, 4]),
        _sequence(
            "was preempted",
            cached=TILE_TOKENS,
            pending=70,
            blocks=[6, 7, 8, 10, 11, 12, 13],
            num_prompt=50,
        ),
        _sequence("is one token", cached=0, pending=1, blocks=[15]),
    ]
    pools = [_random(NUM_BLOCKS * BLOCK_TOKENS, num_kv_heads, HEAD_SIZE) for _ in range(2)]
    cache.write(1, cache.slots(torch.arange(NUM_BLOCKS * BLOCK_TOKENS)), *pools)
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


def _attended(rule: AttentionRule, tables: list[list[Any]], lengths: list[int]) -> list[Tensor]:
    """Decode one token of sequences in a cache whose other slots hold no numbers at all.

    Sequence `i` has the keys, values and query of seed `i`, wherever its blocks are.
    """
    cache = KVCache(_config(4, 2), num_blocks=NUM_BLOCKS)
    rubbish = torch.full((NUM_BLOCKS * BLOCK_TOKENS, 2, HEAD_SIZE), float("nan"))
    cache.write(0, cache.slots(torch.arange(len(rubbish))), rubbish, rubbish)
    sequences, queries, keys = [], [], []
    for seed, (blocks, length) in enumerate(zip(tables, lengths, strict=True)):
        generator = torch.Generator().manual_seed(seed)
        q_1NH = torch.randn((1, 4, HEAD_SIZE), generator=generator)
        kv_TKH = torch.randn((NUM_BLOCKS * BLOCK_TOKENS, 2, HEAD_SIZE), generator=generator)
        before_TKH = kv_TKH[: length - 1]
        slots_T = cache.place(blocks, length).slots_C[:-1]
        cache.write(0, cache.slots(slots_T), before_TKH, before_TKH.neg())
        sequences.append(
            _sequence(str(seed), cached=length - 1, pending=1, blocks=blocks, num_prompt=0)
        )
        queries.append(q_1NH)
        keys.append(kv_TKH[length - 1 : length])
    batch = build_batch([(s, 1) for s in sequences], cache)
    k_TKH = torch.cat(keys)
    out_TNH = PagedAttention(cache, batch)(0, torch.cat(queries), k_TKH, k_TKH.neg(), rule)
    return list(out_TNH)


@pytest.mark.parametrize("rule", RULES)
def test_an_output_has_the_same_bits_wherever_its_blocks_are_and_whatever_is_beside_it(
    rule: str,
) -> None:
    """Lengths at a block's end, one past it, and so far apart that groups differ."""
    for length in (1, 16, 17, 63, 64, 65, 100):
        num_blocks = -(-length // BLOCK_TOKENS)
        run, turned = list(range(num_blocks)), list(range(NUM_BLOCKS))[::-1][:num_blocks]
        (alone,) = _attended(RULES[rule], [run], [length])
        assert alone.isfinite().all()
        scattered, *_ = _attended(
            RULES[rule], [turned, [0], [1, 2], [6, 4, 5, 3]], [length, 3, 17, 60]
        )
        assert torch.equal(scattered, alone), length
        beside, *_ = _attended(
            RULES[rule], [run, list(range(num_blocks, NUM_BLOCKS))], [length, 16 * 9]
        )
        assert torch.equal(beside, alone), length


def test_rows_whose_index_would_be_too_large_are_computed_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables: list[list[Any]] = [[0, 5], [1], [2, 3], [4]]
    lengths = [20, 16, 32, 1]
    together = _attended(RULES["plain"], tables, lengths)
    monkeypatch.setattr(outputs, "_MOST_ELEMENTS", 1)
    apart = _attended(RULES["plain"], tables, lengths)
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))
