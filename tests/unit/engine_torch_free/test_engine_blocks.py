"""The block pool hands out all or nothing, and gets everything back."""

import pytest

from purvey.engine.blocks import BlockPool
from purvey.errors import KVCacheExhaustedError


def test_blocks_cover_the_tokens() -> None:
    pool = BlockPool(num_blocks=4, block_tokens=16)
    assert [pool.blocks_for(n) for n in (1, 16, 17, 64)] == [1, 1, 2, 4]
    assert pool.allocate("a", 17) == [0, 1]
    assert pool.num_free == 2
    pool.check()


def test_an_impossible_request_leaves_the_pool_as_it_was() -> None:
    pool = BlockPool(num_blocks=4, block_tokens=16)
    pool.allocate("a", 33)
    with pytest.raises(KVCacheExhaustedError) as caught:
        pool.allocate("b", 17)
    assert (caught.value.needed, caught.value.free) == (2, 1)
    assert pool.num_free == 1
    pool.check()


def test_released_blocks_come_back_once() -> None:
    pool = BlockPool(num_blocks=3, block_tokens=16)
    pool.allocate("a", 48)
    pool.release("a")
    pool.release("a")
    pool.release("nobody")
    assert pool.num_free == 3
    pool.check()


def test_neighbours_are_preferred_to_the_first_gap() -> None:
    pool = BlockPool(num_blocks=6, block_tokens=1)
    pool.allocate("a", 1)
    pool.allocate("b", 1)
    pool.release("a")
    assert pool.allocate("c", 2) == [2, 3]
    assert pool.allocate("d", 3) == [0, 4, 5]  # no three neighbours are left
    pool.check()


def test_check_finds_a_lost_and_a_doubled_block() -> None:
    pool = BlockPool(num_blocks=2, block_tokens=1)
    pool._free.pop()
    with pytest.raises(AssertionError, match="lost"):
        pool.check()
    pool = BlockPool(num_blocks=2, block_tokens=1)
    held = pool.allocate("a", 1)
    pool._free.insert(0, held[0])
    with pytest.raises(AssertionError, match="both free and held"):
        pool.check()
