"""The block pool over random histories: nothing is lost, holders are counted, names stay true."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from purvey.engine.blocks import BlockId, BlockPool
from purvey.errors import KVCacheExhaustedError

NUM_BLOCKS = 10
NAMES = [b"%d" % i for i in range(14)]


class Pool(RuleBasedStateMachine):
    """Holders come and go; `age` is the order in which blocks were last let go."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(num_blocks=NUM_BLOCKS, block_tokens=4)
        self.held: list[list[BlockId]] = []
        self.names: dict[BlockId, bytes] = {}
        self.age: list[BlockId] = []

    @rule(
        num_blocks=st.integers(1, 5),
        room=st.integers(0, 8),
        after=st.none() | st.integers(0, NUM_BLOCKS - 1).map(BlockId),
    )
    def allocate(self, num_blocks: int, room: int, after: BlockId | None) -> None:
        """Take some, all or none; what lived in them is forgotten, the oldest first."""
        free = self.pool.num_free
        idle = [block for block in self.age if block in self.names]
        try:
            blocks = self.pool.allocate(num_blocks, room=room, after=after)
        except KVCacheExhaustedError:
            assert num_blocks > free
            assert self.pool.num_free == free
            return
        assert self.pool.num_free == free - num_blocks
        assert len(set(blocks)) == num_blocks
        assert not set(blocks) & {block for some in self.held for block in some}
        lost = [block for block in idle if self.pool.find([self.names[block]]) != [block]]
        assert lost == idle[: len(lost)], "a block was reused before one that is older"
        for block in lost:
            del self.names[block]
        self.age = [block for block in self.age if block not in {*lost, *blocks}]
        self.held.append(blocks)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Let a holder go."""
        blocks = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.pool.release(blocks)
        still = {block for some in self.held for block in some}
        self.age += [block for block in reversed(blocks) if block not in still]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def name(self, data: st.DataObject, name: bytes) -> None:
        """Name a held block; the first of a name keeps it."""
        block = data.draw(st.sampled_from(data.draw(st.sampled_from(self.held))))
        self.pool.name(block, name)
        if name not in self.names.values():
            self.names.setdefault(block, name)

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    def share(self, names: list[bytes]) -> None:
        """Hold what is found."""
        blocks = self.pool.find(names)
        known = {name: block for block, name in self.names.items()}
        count = next((i for i, name in enumerate(names) if name not in known), len(names))
        assert blocks == [known[name] for name in names[:count]]
        if blocks:
            self.pool.share(blocks)
            self.held.append(blocks)
            self.age = [block for block in self.age if block not in blocks]

    @invariant()
    def is_sound(self) -> None:
        """Every block is in one place, held by as many as hold it."""
        self.pool.check(block for some in self.held for block in some)

    def teardown(self) -> None:
        """All come back."""
        for blocks in self.held:
            self.pool.release(blocks)
        self.pool.check([])
        assert self.pool.num_free == NUM_BLOCKS


TestPool = Pool.TestCase
TestPool.settings = settings(deadline=None, max_examples=40, stateful_step_count=40)
