"""Pool, prefix cache, policy and planner together, over random lives of sequences.

Memory is played by what each slot depends on: the salt, all tokens up to its position, and, where
the arithmetic has another shape, the prompt's length. A sequence whose slots are not its own has
found the wrong block.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from purvey.engine.admission.floor import Floor
from purvey.engine.request import Sequence
from purvey.engine.scheduler import Budget, StepPlan, plan

BLOCK, TILE, NUM_BLOCKS = 4, 8, 11
BUDGET = Budget(max_batch_tokens=2 * TILE + 3, tile_tokens=TILE, block_tokens=BLOCK)
Slot = tuple[str, tuple[int, ...], int]


def truth(sequence: Sequence, position: int) -> Slot:
    """Return what keys and values of a position depend on."""
    whole = sequence.num_prompt // TILE * TILE
    shape = 0 if position < whole else sequence.num_prompt
    return sequence.salt, tuple(sequence.tokens[: position + 1]), shape


prompts = st.one_of(
    st.lists(st.integers(0, 1), min_size=1, max_size=24),
    st.integers(1, 30).map(lambda n: [7] * n),
    st.tuples(st.integers(8, 20), st.lists(st.integers(0, 1), min_size=1, max_size=9)).map(
        lambda t: [7] * t[0] + t[1]
    ),
)


class Engine(RuleBasedStateMachine):
    """An engine without a model: outputs follow from what came before, and prompts repeat them."""

    def __init__(self) -> None:
        super().__init__()
        self.floor = Floor(BUDGET, num_blocks=NUM_BLOCKS, has_prefix_cache=True)
        self.memory: dict[int, Slot] = {}
        self.living: dict[str, Sequence] = {}
        self.now_s = 0.0
        self.count = 0

    @rule(
        prompt=prompts,
        num_new=st.integers(0, 12),
        salt=st.sampled_from(["p", "p", "q"]),
        priority=st.sampled_from([-1, 0, 0, 1]),
        is_background=st.booleans(),
        wants_from=st.none() | st.integers(0, 12),
    )
    def arrive(
        self,
        prompt: list[int],
        num_new: int,
        salt: str,
        priority: int,
        is_background: bool,
        wants_from: int | None,
    ) -> None:
        """Accept a sequence that fits in the pool."""
        self.count += 1
        sequence = Sequence(
            request_id=str(self.count),
            tokens=list(prompt),
            num_prompt=len(prompt),
            max_new_tokens=num_new,
            prompt_logprobs_from=wants_from if wants_from and wants_from < len(prompt) else None,
            is_background=is_background,
            project=salt,
            salt=salt,
            priority=priority,
            arrived_s=self.now_s,
        )
        self.living[sequence.request_id] = sequence
        self.floor.add(sequence)

    @rule(seconds=st.sampled_from([0.0, 3.0, 70.0]), steps=st.integers(1, 6))
    def steps(self, seconds: float, steps: int) -> None:
        """Let time pass and compute."""
        self.now_s += seconds
        for _ in range(steps):
            self.step()

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Give one up, wherever it is."""
        self.end(self.living[data.draw(st.sampled_from(sorted(self.living)))])

    def step(self) -> None:
        """Plan and compute once."""
        state = self.floor.state(self.now_s)
        decision = plan(state, BUDGET)
        self.check_plan(decision)
        for request_id in decision.preempted:
            self.floor.preempt(request_id)
        self.floor.admit(decision.admitted)
        chunks = [(self.living[c.request_id], c.num_tokens) for c in decision.chunks]
        self.floor.make_room(chunks)
        for sequence, num_tokens in chunks:
            self.compute(sequence, num_tokens)
        assert bool(chunks) == bool(self.living), "an idle step while there is work"
        for sequence, _ in chunks:
            self.advance(sequence)

    def check_plan(self, decision: StepPlan) -> None:
        """Verify what the plan promises."""
        assert decision.num_tokens <= BUDGET.max_batch_tokens
        assert not (decision.preempted and decision.admitted)
        ids = [chunk.request_id for chunk in decision.chunks]
        assert len(set(ids)) == len(ids)
        assert not set(ids) & set(decision.preempted)

    def compute(self, sequence: Sequence, num_tokens: int) -> None:
        """Write the slots of a chunk; a prompt is split at tiles only."""
        start, end = sequence.num_cached, sequence.num_cached + num_tokens
        assert start <= len(sequence.tokens) - 1
        assert start >= sequence.num_prompt or start % TILE == 0
        assert end >= sequence.num_prompt or end % TILE == 0
        for position in range(start, end):
            slot = sequence.blocks[position // BLOCK] * BLOCK + position % BLOCK
            self.memory[slot] = truth(sequence, position)
        self.floor.computed(sequence, num_tokens)

    def advance(self, sequence: Sequence) -> None:
        """Append the next token, or end."""
        if sequence.num_pending:
            return
        if not sequence.is_full:
            sequence.tokens.append(7 if set(sequence.tokens) == {7} else sum(sequence.tokens) % 2)
            self.floor.charge_output(sequence)
        if sequence.is_full:
            self.end(sequence)

    def end(self, sequence: Sequence) -> None:
        """Take one out."""
        del self.living[sequence.request_id]
        self.floor.remove(sequence)

    @invariant()
    def is_sound(self) -> None:
        """Blocks are counted, and every sequence finds its own keys and values, never others'."""
        self.floor.check()
        for sequence in self.living.values():
            for position in range(sequence.num_cached):
                slot = sequence.blocks[position // BLOCK] * BLOCK + position % BLOCK
                assert self.memory[slot] == truth(sequence, position)

    def teardown(self) -> None:
        """All that lives ends, in a bounded number of steps, and all blocks come back."""
        for _ in range(1_000):
            if not self.living:
                break
            self.step()
            self.is_sound()
        assert not self.living, "a sequence starved"
        assert self.floor.num_free_blocks == NUM_BLOCKS
        assert self.floor.num_running == self.floor.num_waiting == 0


TestEngine = Engine.TestCase
TestEngine.settings = settings(deadline=None, max_examples=40, stateful_step_count=30)
