"""The block pool over random histories: nothing is lost, nothing is held twice."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purvey.engine.blocks import BlockPool
from purvey.errors import KVCacheExhaustedError

operations = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.integers(min_value=1, max_value=40)), max_size=40
)


@settings(deadline=None)  # the machine may be busy
@given(num_blocks=st.integers(1, 12), block_tokens=st.integers(1, 8), history=operations)
def test_every_block_is_in_one_place(
    num_blocks: int, block_tokens: int, history: list[tuple[str, int]]
) -> None:
    """A name that holds blocks releases them, one that does not asks for some."""
    pool = BlockPool(num_blocks=num_blocks, block_tokens=block_tokens)
    held: dict[str, list[int]] = {}
    for name, num_tokens in history:
        free_before = pool.num_free
        needed = pool.blocks_for(num_tokens)
        if name in held:
            pool.release(name)
            assert pool.num_free == free_before + len(held.pop(name))
        elif needed > free_before:
            with pytest.raises(KVCacheExhaustedError):
                pool.allocate(name, num_tokens)
            assert pool.num_free == free_before
        else:
            blocks = pool.allocate(name, num_tokens)
            assert len(blocks) == needed
            assert len(blocks) * block_tokens >= num_tokens
            assert not set(blocks) & {b for others in held.values() for b in others}
            held[name] = list(blocks)
        pool.check()
    for name in held:
        pool.release(name)
    pool.check()
    assert pool.num_free == num_blocks
