"""What the cache knows already: blocks found by the tokens that they and all before them hold.

A block's name is a hash over its parent's name, its tokens, the salt, the adapter and the picture,
so that a name says everything that the block's keys and values depend on. Two things more, for
equal bits (`attention/`): the prompt's last, incomplete tile and every output token are computed in
shapes that follow from the prompt's length, so the names of their blocks hold that length; and a
hit ends where a tile of the prompt ends, or past the prompt, where rows are computed one by one.

Sharing blocks by hash chains: Kwon et al. 2023, "Efficient Memory Management for Large Language
Model Serving with PagedAttention", section 4.4; finding them after their holders are gone: Zheng
et al. 2024, "SGLang: Efficient Execution of Structured Language Model Programs", section 3.
"""

import hashlib
from array import array
from dataclasses import dataclass

from purvey.engine.blocks import BlockId, BlockPool
from purvey.engine.request import Sequence


@dataclass(frozen=True, kw_only=True)
class Hit:
    """What the cache knows of a sequence.

    Args:
        blocks: Blocks that hold its first positions.
        num_tokens: How many positions these are.
        num_idle: How many of the blocks nobody holds now.
        next_name: Name of the last block of the tile after them, if that tile could be found.
    """

    blocks: tuple[BlockId, ...] = ()
    num_tokens: int = 0
    num_idle: int = 0
    next_name: bytes | None = None


class PrefixCache:
    """Gives sequences their blocks: those that hold their first tokens already, then free ones.

    Args:
        pool: The blocks.
        tile_tokens: Positions that are computed together; a multiple of a block's.
        is_enabled: Whether blocks are ever found again.
    """

    def __init__(self, pool: BlockPool, *, tile_tokens: int, is_enabled: bool = True) -> None:
        assert tile_tokens % pool.block_tokens == 0, "tiles begin within blocks"
        self._pool, self._tile_tokens, self._is_enabled = pool, tile_tokens, is_enabled

    def look_up(self, sequence: Sequence) -> Hit:
        """Find what is known of a waiting sequence; at least its last token never is.

        Neither is any position whose logits are still wanted.
        """
        if not self._is_enabled:
            return Hit()
        num_tokens = len(sequence.tokens)
        first_wanted = sequence.wanted_positions(0, num_tokens).start
        most = min(first_wanted, num_tokens - 1)
        names = self._names(sequence, most // self._pool.block_tokens)
        blocks = self._pool.find(names)
        hit = self._rounded(len(blocks) * self._pool.block_tokens, sequence.num_prompt)
        used = tuple(blocks[: hit // self._pool.block_tokens])
        return Hit(
            blocks=used,
            num_tokens=hit,
            num_idle=sum(not self._pool.num_holders(block) for block in used),
            next_name=self._tile_name(sequence, hit),
        )

    def next_name(self, sequence: Sequence) -> bytes | None:
        """Name the tile that a running sequence computes next, if others could find it."""
        if not self._is_enabled or sequence.num_cached >= sequence.num_prompt:
            return None
        return self._tile_name(sequence, sequence.num_cached)

    def num_own(self, sequence: Sequence) -> int:
        """Count the blocks that nobody else holds."""
        return sum(self._pool.num_holders(block) == 1 for block in sequence.blocks)

    def claim(self, sequence: Sequence, hit: Hit) -> None:
        """Let a sequence hold what was found for it."""
        assert not sequence.blocks, "a sequence asked for blocks twice"
        self._pool.share(hit.blocks)
        sequence.blocks = list(hit.blocks)
        sequence.num_cached = hit.num_tokens

    def grow(self, sequence: Sequence, num_positions: int) -> None:
        """Let a sequence hold blocks for so many positions."""
        missing = self._pool.blocks_for(num_positions) - len(sequence.blocks)
        if missing > 0:
            worst = self._pool.blocks_for(sequence.max_positions) - len(sequence.blocks)
            after = sequence.blocks[-1] if sequence.blocks else None
            sequence.blocks += self._pool.allocate(missing, after=after, room=worst)

    def note(self, sequence: Sequence, start: int) -> None:
        """Let the prompt's tiles that were computed from position `start` on be found."""
        if not self._is_enabled or start >= sequence.num_prompt:
            return
        end = self._rounded(sequence.num_cached, sequence.num_prompt)
        end = min(end, self._whole_tiles(sequence.num_prompt))
        if start < end:
            self._note_blocks(sequence, start // self._pool.block_tokens, end)

    def preempt(self, sequence: Sequence) -> None:
        """Free the blocks of a sequence that goes on later, and let all that are full be found."""
        if self._is_enabled:
            self._note_blocks(sequence, 0, sequence.num_cached)
        self.release(sequence)
        sequence.num_cached = 0

    def release(self, sequence: Sequence) -> None:
        """Free the blocks of a sequence, if it has any."""
        self._pool.release(sequence.blocks)
        sequence.blocks = []

    def _note_blocks(self, sequence: Sequence, first: int, end: int) -> None:
        names = self._names(sequence, end // self._pool.block_tokens)
        for block, name in list(zip(sequence.blocks, names, strict=False))[first:]:
            self._pool.name(block, name)

    def _rounded(self, num_tokens: int, num_prompt: int) -> int:
        """Return the last position up to which a hit of `num_tokens` may reach."""
        whole = num_tokens // self._pool.block_tokens * self._pool.block_tokens
        if whole >= num_prompt:
            return whole
        return whole // self._tile_tokens * self._tile_tokens

    def _whole_tiles(self, num_prompt: int) -> int:
        return num_prompt // self._tile_tokens * self._tile_tokens

    def _tile_name(self, sequence: Sequence, start: int) -> bytes | None:
        """Return the name of the last block of the whole tile at `start`, if one is to come.

        None where the last token or wanted logits lie within the tile.
        """
        end = start + self._tile_tokens
        last = (end // self._pool.block_tokens) - 1
        is_whole = start % self._tile_tokens == 0 and end <= self._whole_tiles(sequence.num_prompt)
        return sequence.names[last] if is_whole and last < len(sequence.names) else None

    def _names(self, sequence: Sequence, num_blocks: int) -> list[bytes]:
        """Return the names of the first blocks, all of whose tokens must be known."""
        names, width = sequence.names, self._pool.block_tokens
        whole = self._whole_tiles(sequence.num_prompt)
        while len(names) < num_blocks:
            start = len(names) * width
            hashed = hashlib.sha256(names[-1] if names else _root(sequence))
            hashed.update(array("q", sequence.tokens[start : start + width]).tobytes())
            if start + width > whole:
                hashed.update(b"after a prompt of %d" % sequence.num_prompt)
            names.append(hashed.digest())
        return names[:num_blocks]


def _root(sequence: Sequence) -> bytes:
    root = hashlib.sha256(b"purvey.prefix\0" + sequence.salt.encode()).digest()
    if sequence.adapter is not None:
        root = hashlib.sha256(root + sequence.adapter.digest.encode()).digest()
    if sequence.picture is not None:
        root = hashlib.sha256(root + b"purvey.picture\0" + sequence.picture.digest).digest()
    return root
