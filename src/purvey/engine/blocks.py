"""KV-cache blocks: which request holds each one, and which may be handed out.

Every block is in exactly one place: `_free` (kept in order), or one
holder's list in `_held`. No tensor is
touched here; `kv_cache.py` owns the memory that these ids name.
"""

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
        self._free = [BlockId(i) for i in range(num_blocks)]
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

        The lowest neighbours are taken that there are: `kv_cache.py` reads them without copying.

        Raises:
            KVCacheExhaustedError: Fewer blocks are free than asked for; the pool is unchanged.
        """
        assert holder not in self._held, "a request asked for blocks twice"
        needed = self.blocks_for(num_tokens)
        if needed > len(self._free):
            raise KVCacheExhaustedError(needed=needed, free=len(self._free))
        first = self._first_run(needed)
        blocks = self._free[first : first + needed]
        del self._free[first : first + needed]
        self._held[holder] = blocks
        return list(blocks)

    def release(self, holder: str) -> None:
        """Free everything that `holder` has; one that holds nothing is left alone."""
        self._free = sorted([*self._free, *self._held.pop(holder, [])])

    def check(self) -> None:
        """Verify the invariant; called by tests after every step."""
        held = [block for blocks in self._held.values() for block in blocks]
        assert self._free == sorted(self._free), "free blocks are out of order"
        assert len(set(held)) == len(held), "a block has two holders"
        assert set(held).isdisjoint(self._free), "a block is both free and held"
        assert sorted([*held, *self._free]) == list(range(self.num_blocks)), "a block was lost"

    def _first_run(self, length: int) -> int:
        """Return where the first `length` neighbours begin in `_free`; 0 when there are none."""
        start = 0
        for index, block in enumerate(self._free):
            if index and block != self._free[index - 1] + 1:
                start = index
            if index - start + 1 == length:
                return start
        return 0
