"""KV-cache blocks: who holds each one, what it is known by, and which may be handed out.

Every block is in exactly one place: held, by one sequence or by several that share it; idle,
free but still found under its name; or blank, free and unknown. No tensor is touched here;
`kv_cache.py` owns the memory that these ids name.
"""

import itertools
from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import NewType

from purvey.errors import KVCacheExhaustedError

BlockId = NewType("BlockId", int)
_GROWTH_ROOM = 16
"""Blocks behind a run that are kept for its growth where others will do for others: what reads a
prompt copies no values of a run."""


class BlockPool:
    """Reference-counted pool of fixed-size KV blocks.

    Invariants: every block is held, idle or blank; a block has at most one name and a name at
    most one block; idle blocks have names and blank ones none. `_hopes` are no promises: by the
    last block of a run, the blank ones behind it that its holder may come to need.

    Args:
        num_blocks: Blocks in the pool, each holding `block_tokens` positions.
        block_tokens: Positions per block, in tokens.
    """

    def __init__(self, *, num_blocks: int, block_tokens: int) -> None:
        self.num_blocks, self.block_tokens = num_blocks, block_tokens
        self._blank = [BlockId(i) for i in range(num_blocks)]  # in order
        self._idle: OrderedDict[BlockId, None] = OrderedDict()  # the left end is reused first
        self._holders: Counter[BlockId] = Counter()
        self._names: dict[BlockId, bytes] = {}
        self._named: dict[bytes, BlockId] = {}
        self._hopes: dict[BlockId, list[BlockId]] = {}

    @property
    def num_free(self) -> int:
        """Blocks that may be handed out: nobody holds them."""
        return len(self._blank) + len(self._idle)

    def blocks_for(self, num_tokens: int) -> int:
        """Count the blocks that hold `num_tokens` positions."""
        return -(-num_tokens // self.block_tokens)

    def num_holders(self, block: BlockId) -> int:
        """Count the sequences that hold a block."""
        return self._holders[block]

    def allocate(
        self, num_blocks: int, *, after: BlockId | None = None, room: int = 0
    ) -> list[BlockId]:
        """Take blocks that nobody holds, all of them or none; what they were known by is lost.

        Neighbours are taken where there are any: `kv_cache.py` copies less of them. Blank
        blocks go first, then idle ones, the one that was used longest ago before all others.

        Args:
            num_blocks: How many.
            after: A block that they had best follow.
            room: Blocks that the holder may come to need; best free neighbours of these.

        Raises:
            KVCacheExhaustedError: Fewer blocks are free than asked for; the pool is unchanged.
        """
        if num_blocks > self.num_free:
            raise KVCacheExhaustedError(needed=num_blocks, free=self.num_free)
        blocks = [] if after is None else self._run_behind(after, num_blocks)
        if len(blocks) < num_blocks:
            blocks = self._place(num_blocks, min(room, num_blocks + _GROWTH_ROOM))
        for block in blocks:
            del self._blank[bisect_left(self._blank, block)]
        self._holders.update(blocks)
        if after is not None:
            self._hopes.pop(after, None)
        wished = min(room - num_blocks, _GROWTH_ROOM)
        self._hopes[blocks[-1]] = self._run_behind(blocks[-1], wished)
        return blocks

    def share(self, blocks: Iterable[BlockId]) -> None:
        """Add a holder to blocks that have one or are idle."""
        for block in blocks:
            assert self._holders[block] or block in self._idle, "shared a block that is blank"
            self._idle.pop(block, None)
            self._holders[block] += 1

    def release(self, blocks: Sequence[BlockId]) -> None:
        """Drop one holder from each; the last one out makes a named block idle, others blank."""
        if blocks:
            self._hopes.pop(blocks[-1], None)
        for block in reversed(blocks):  # tail first: without its head a tail is never found
            assert self._holders[block], "released a block that nobody holds"
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            del self._holders[block]
            if block in self._names:
                self._idle[block] = None
            else:
                insort(self._blank, block)

    def name(self, block: BlockId, name: bytes) -> None:
        """Let a held block be found; where another block has the name, or it has one, it stays."""
        assert self._holders[block], "named a block that nobody holds"
        if name not in self._named and block not in self._names:
            self._names[block], self._named[name] = name, block

    def find(self, names: Iterable[bytes]) -> list[BlockId]:
        """Return the blocks of these names, up to the first that is unknown."""
        found: list[BlockId] = []
        for name in names:
            if (block := self._named.get(name)) is None:
                break
            found.append(block)
        return found

    def check(self, held: Iterable[BlockId] | None = None) -> None:
        """Verify the invariants; called by tests after every step.

        Args:
            held: What every sequence holds, one after the other, where the caller knows it.
        """
        assert self._blank == sorted(self._blank), "blank blocks are out of order"
        places = [*self._blank, *self._idle, *self._holders]
        assert len(set(places)) == len(places), "a block is both free and held"
        assert sorted(places) == list(range(self.num_blocks)), "a block was lost"
        assert min(self._holders.values(), default=1) > 0, "a held block has no holder"
        assert {name: b for b, name in self._names.items()} == self._named, "names disagree"
        assert self._names.keys() >= self._idle.keys(), "an idle block cannot be found"
        assert self._names.keys().isdisjoint(self._blank), "a blank block can be found"
        assert self._hopes.keys() <= self._holders.keys(), "a block that is free has hopes"
        if held is not None:
            assert Counter(held) == self._holders, "blocks leaked"

    def _place(self, num_blocks: int, room: int) -> list[BlockId]:
        """Choose blank blocks, given up by idle ones if need be; hopes are respected till then."""
        hoped = {block for run in self._hopes.values() for block in run}
        unhoped = [block for block in self._blank if block not in hoped]
        for length in (room, num_blocks):
            if length >= num_blocks and (run := _first_run(unhoped, length)):
                return run[:num_blocks]
        wished = max(num_blocks, room)
        for _ in range(min(wished, len(self._idle))):
            run = self._run_around(self._blank_out(), hoped)
            if len(run) >= wished:
                return run[:num_blocks]
        while len(self._blank) < num_blocks:
            self._blank_out()
        return _first_run(self._blank, num_blocks) or self._blank[:num_blocks]

    def _blank_out(self) -> BlockId:
        block, _ = self._idle.popitem(last=False)
        del self._named[self._names.pop(block)]
        insort(self._blank, block)
        return block

    def _is_blank(self, block: int) -> bool:
        index = bisect_left(self._blank, block)
        return index < len(self._blank) and self._blank[index] == block

    def _run_behind(self, block: BlockId, most: int) -> list[BlockId]:
        """Return the blank neighbours behind a block, at most so many."""
        behind = range(block + 1, block + 1 + most)
        return [BlockId(b) for b in itertools.takewhile(self._is_blank, behind)]

    def _run_around(self, block: BlockId, hoped: set[BlockId]) -> list[BlockId]:
        """Return a blank block and its blank neighbours for which nobody hopes."""

        def is_open(other: int) -> bool:
            return self._is_blank(other) and other not in hoped

        before = list(itertools.takewhile(is_open, range(block - 1, -1, -1)))
        behind = itertools.takewhile(is_open, range(block + 1, self.num_blocks))
        return [BlockId(b) for b in (*reversed(before), block, *behind)]


def _first_run(blocks: list[BlockId], length: int) -> list[BlockId]:
    """Return the first so many neighbours of a list in order; none where there are no such."""
    start = 0
    for index, block in enumerate(blocks):
        if index and block != blocks[index - 1] + 1:
            start = index
        if index - start + 1 == length:
            return blocks[start : index + 1]
    return []
