"""The block pool hands out all or nothing, gets everything back, and finds what it was told."""

import pytest

from purvey.engine.blocks import BlockId, BlockPool
from purvey.errors import KVCacheExhaustedError


def test_blocks_cover_the_tokens() -> None:
    pool = BlockPool(num_blocks=4, block_tokens=16)
    assert [pool.blocks_for(n) for n in (1, 16, 17, 64)] == [1, 1, 2, 4]
    assert pool.allocate(2) == [0, 1]
    assert pool.num_free == 2
    pool.check([BlockId(0), BlockId(1)])


def test_an_impossible_request_leaves_the_pool_as_it_was() -> None:
    pool = BlockPool(num_blocks=4, block_tokens=16)
    held = pool.allocate(3)
    with pytest.raises(KVCacheExhaustedError) as caught:
        pool.allocate(2)
    assert (caught.value.needed, caught.value.free) == (2, 1)
    pool.check(held)


def test_a_block_is_free_when_its_last_holder_is_gone() -> None:
    pool = BlockPool(num_blocks=3, block_tokens=16)
    blocks = pool.allocate(2)
    pool.share(blocks[:1])
    pool.release(blocks)
    assert pool.num_free == 2
    assert pool.num_holders(blocks[0]) == 1
    pool.release(blocks[:1])
    pool.check([])
    assert pool.num_free == 3


def test_neighbours_are_preferred_to_the_first_gap() -> None:
    pool = BlockPool(num_blocks=6, block_tokens=1)
    first = pool.allocate(1)
    pool.allocate(1)
    pool.release(first)
    assert pool.allocate(2) == [2, 3]
    assert pool.allocate(3) == [0, 4, 5]  # no three neighbours are left
    pool.check()


def test_growth_follows_what_is_held_and_others_leave_room_for_it() -> None:
    pool = BlockPool(num_blocks=12, block_tokens=1)
    first = pool.allocate(2, room=5)
    second = pool.allocate(2, room=5)
    assert (first, second) == ([0, 1], [5, 6])
    assert pool.allocate(1, after=first[-1], room=3) == [2]
    assert pool.allocate(2) == [10, 11]
    pool.release(second)
    assert pool.allocate(3, room=9) == [5, 6, 7]
    assert pool.allocate(4) == [3, 4, 8, 9]  # hopes are no promises
    pool.check()


def test_a_named_block_is_found_until_it_is_reused() -> None:
    pool = BlockPool(num_blocks=3, block_tokens=1)
    blocks = pool.allocate(2)
    for block, name in zip(blocks, (b"head", b"tail"), strict=True):
        pool.name(block, name)
    pool.release(blocks)
    assert pool.num_free == 3
    assert pool.find([b"head", b"tail", b"unknown"]) == blocks
    assert pool.allocate(1) == [2]  # blank ones go first
    assert pool.allocate(1) == blocks[1:]  # then the tail, which is of no use without its head
    assert pool.find([b"head", b"tail"]) == blocks[:1]
    pool.check()


def test_what_was_used_longest_ago_is_reused_first() -> None:
    pool = BlockPool(num_blocks=3, block_tokens=1)
    for name in (b"a", b"b", b"c"):
        (block,) = pool.allocate(1)
        pool.name(block, name)
        pool.release([block])
    used = pool.find([b"a"])
    pool.share(used)
    pool.release(used)
    pool.allocate(1)
    assert [bool(pool.find([name])) for name in (b"a", b"b", b"c")] == [True, False, True]


def test_a_name_belongs_to_one_block() -> None:
    pool = BlockPool(num_blocks=2, block_tokens=1)
    first, second = pool.allocate(2)
    pool.name(first, b"a")
    pool.name(second, b"a")
    pool.name(first, b"b")
    assert pool.find([b"a"]) == [first]
    assert pool.find([b"b"]) == []
    pool.release([first, second])
    pool.check([])


def test_a_run_of_neighbours_is_made_of_idle_blocks() -> None:
    """One sequence's old prompt is given up beside the blanks of its old output."""
    pool = BlockPool(num_blocks=8, block_tokens=1)
    old, other = pool.allocate(4), pool.allocate(4)
    for block in (*old[:2], *other[:2]):
        pool.name(block, b"%d" % block)
    pool.release(old)
    pool.release(other)
    assert pool.allocate(3, room=4) == [0, 1, 2]
    assert pool.find([b"4", b"5"]) == [4, 5]
    pool.check()


def test_check_finds_what_is_wrong() -> None:
    pool = BlockPool(num_blocks=2, block_tokens=1)
    pool._blank.pop()
    with pytest.raises(AssertionError, match="lost"):
        pool.check()
    pool = BlockPool(num_blocks=2, block_tokens=1)
    held = pool.allocate(1)
    with pytest.raises(AssertionError, match="leaked"):
        pool.check([*held, *held])
    pool._blank.insert(0, held[0])
    with pytest.raises(AssertionError, match="both free and held"):
        pool.check()
