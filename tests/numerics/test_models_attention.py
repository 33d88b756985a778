"""Paged attention against dense attention, and a sequence against its neighbours."""

import pytest
import torch
from torch import Tensor

from purvey.models.attention.base import AttentionRule
from purvey.models.attention.dense import DenseAttention
from purvey.models.attention.reference import attend_sequence, paged_attention

HEADS, KV_HEADS, SIZE, BLOCK = 4, 2, 8, 4


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


RULES = {
    "plain": AttentionRule(scale=SIZE**-0.5),
    "window": AttentionRule(scale=0.3, window=3),
    "capped": AttentionRule(scale=0.3, softcap=0.7),
    "capped window": AttentionRule(scale=0.3, window=3, softcap=0.7),
}
RULE = RULES["plain"]


@pytest.mark.parametrize("name", RULES)
def test_paged_equals_dense_over_scattered_blocks(name: str) -> None:
    length = 10
    q_TNH, k_TKH, v_TKH = (random(length, heads, SIZE) for heads in (HEADS, KV_HEADS, KV_HEADS))
    v_TKH = v_TKH + 1
    dense = DenseAttention(num_sequences=1)(0, q_TNH, k_TKH, v_TKH, RULES[name])
    table = torch.tensor([5, 0, 3])
    k_pool, v_pool = (torch.full((6, BLOCK, KV_HEADS, SIZE), 9.0) for _ in range(2))
    for position in range(length):
        k_pool[table[position // BLOCK], position % BLOCK] = k_TKH[position]
        v_pool[table[position // BLOCK], position % BLOCK] = v_TKH[position]
    paged = paged_attention(
        q_TNH[6:],
        k_pool,
        v_pool,
        tables=[table],
        starts=[6],
        lengths=[4],
        rule=RULES[name],
    )
    assert (paged - dense[6:]).abs().max() < 1e-5  # float32 sums of 10 terms


def test_a_neighbour_changes_not_one_bit() -> None:
    pool = random(6, BLOCK, KV_HEADS, SIZE)
    q_TNH = random(5, HEADS, SIZE)
    tables = [torch.tensor([1, 2]), torch.tensor([4])]
    both = paged_attention(
        q_TNH, pool, pool, tables=tables, starts=[4, 0], lengths=[3, 2], rule=RULE
    )
    alone = paged_attention(
        q_TNH[:3], pool, pool, tables=tables[:1], starts=[4], lengths=[3], rule=RULE
    )
    assert torch.equal(both[:3], alone)


def test_no_position_sees_a_later_one() -> None:
    q_QNH, k_CKH = random(3, HEADS, SIZE), random(3, KV_HEADS, SIZE)
    before = attend_sequence(q_QNH, k_CKH, k_CKH, start=0, rule=RULE)
    changed = k_CKH.clone()
    changed[2] = 100.0
    after = attend_sequence(q_QNH, changed, changed, start=0, rule=RULE)
    assert torch.equal(before[:2], after[:2])
    assert not torch.equal(before[2], after[2])


def test_a_window_hides_what_lies_before_it() -> None:
    rule = AttentionRule(scale=0.3, window=2)
    q_QNH, k_CKH = random(3, HEADS, SIZE), random(3, KV_HEADS, SIZE)
    before = attend_sequence(q_QNH, k_CKH, k_CKH, start=0, rule=rule)
    changed = k_CKH.clone()
    changed[0] = 100.0
    after = attend_sequence(q_QNH, changed, changed, start=0, rule=rule)
    assert torch.equal(before[2], after[2])
    assert not torch.equal(before[1], after[1])
