"""KV-cache blocks: which request holds each one, and which may be handed out.

Every block is in exactly one place: `_free`, or one holder's list in `_held`. No tensor is
touched here; `kv_cache.py` owns the memory that these ids name.
"""

from collections import deque
from typing import NewType

from purvey.errors import KVCacheExhaustedError

BlockId = NewType("BlockId", int)


class BlockPool:
    """Pool of fixed-size KV blocks, each free or held by exactly one request.

    Args:
        num_blocks: Blocks in the pool, each holding `block_tokens` positions.
        block_tokens: Positions per block, in tokens.
    """

    def __init__(self, *, num_blocks: int, block_tokens: int) -> None:
        self.num_blocks, self.block_tokens = num_blocks, block_tokens
        self._free = deque(BlockId(i) for i in range(num_blocks))
        self._held: dict[str, list[BlockId]] = {}

    @property
    def num_free(self) -> int:
        """Blocks that may be handed out."""
        return len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """Count the blocks that hold `num_tokens` positions."""
        return -(-num_tokens // self.block_tokens)

    def allocate(self, holder: str, num_tokens: int) -> list[BlockId]:
        """Take enough blocks for `num_tokens`, all of them or none.

        Raises:
            KVCacheExhaustedError: Fewer blocks are free than asked for; the pool is unchanged.
        """
        assert holder not in self._held, "a request asked for blocks twice"
        needed = self.blocks_for(num_tokens)
        if needed > len(self._free):
            raise KVCacheExhaustedError(needed=needed, free=len(self._free))
        blocks = [self._free.popleft() for _ in range(needed)]
        self._held[holder] = blocks
        return list(blocks)

    def release(self, holder: str) -> None:
        """Free everything that `holder` has; one that holds nothing is left alone.

        Blocks return to the front in order, so that the next request gets neighbouring
        blocks again, which `kv_cache.py` reads without copying.
        """
        self._free.extendleft(reversed(self._held.pop(holder, [])))

    def check(self) -> None:
        """Verify the invariant; called by tests after every step."""
        held = [block for blocks in self._held.values() for block in blocks]
        assert len(set(held)) == len(held), "a block has two holders"
        assert set(held).isdisjoint(self._free), "a block is both free and held"
        assert sorted([*held, *self._free]) == list(range(self.num_blocks)), "a block was lost"
