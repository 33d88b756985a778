"""What the next step computes: one pure decision, `plan(state, budget)`.

Both queues come in order (`admission/policy.py`); the plan keeps it. Rows go to three tiers: one
token for every sequence that decodes, then the prompts of interactive requests, then background
work (scores). A sequence is admitted when blocks are free for all tokens it has, and for one more
of each that runs; they grow one by one as outputs do. When none is free, the last of those that
run is preempted: it gives its blocks back, waits in front of its queue, and is computed anew.
The first is never preempted, so it ends; then another is the first.

One whose next tile a running sequence is about to compute waits for that: it is then found.
Prompts are split between steps only at multiples of `tile_tokens`, because the attention of a
position is computed in tiles that start there: a prompt's arithmetic is then the same however
its neighbours force it to be split.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one step may take.

    Args:
        max_batch_tokens: Rows of one step at most.
        tile_tokens: Prompts are split only at multiples of this many positions.
        block_tokens: Positions of one block.
    """

    max_batch_tokens: int
    tile_tokens: int
    block_tokens: int

    def __post_init__(self) -> None:
        assert self.max_batch_tokens >= 2 * self.tile_tokens, "no room to decode beside a tile"

    @property
    def max_running(self) -> int:
        """Sequences at once: when all of them decode, one tile of prompt still fits."""
        return self.max_batch_tokens - self.tile_tokens


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A sequence as the planner sees it.

    Args:
        request_id: Whose it is.
        num_cached: Positions already computed; a multiple of the tile while a prompt is read.
        num_pending: Known tokens still to compute, at least 1.
        num_blocks: Blocks that hold the cached positions, or more: held already when running.
        num_free: Of these, when running, those that come free if it is preempted; when waiting,
            those that nobody holds yet and that are counted as free.
        is_background: Whether it yields to all that are not.
        next_name: Name of what it computes next, if others could find that; else None.
    """

    request_id: str
    num_cached: int
    num_pending: int
    num_blocks: int = 0
    num_free: int = 0
    is_background: bool = False
    next_name: bytes | None = None

    def num_missing(self, budget: Budget) -> int:
        """Count the blocks that its known tokens take beside those it has."""
        known = self.num_cached + self.num_pending
        return max(0, -(-known // budget.block_tokens) - self.num_blocks)


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything the decision depends on; both queues in order of precedence."""

    running: tuple[Candidate, ...]
    waiting: tuple[Candidate, ...]
    num_free_blocks: int


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """`num_tokens` positions of one sequence, from its first uncached one."""

    request_id: str
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """Who is preempted, last first, who is admitted, and which rows are computed."""

    preempted: tuple[str, ...]
    admitted: tuple[str, ...]
    chunks: tuple[Chunk, ...]

    @property
    def num_tokens(self) -> int:
        """Rows of the step."""
        return sum(chunk.num_tokens for chunk in self.chunks)


def plan(state: State, budget: Budget) -> StepPlan:
    """Decide the next step.

    The plan never exceeds the token budget or the free blocks, never admits a request before one
    that precedes it (but one that waits to be found), and computes at least one row whenever a
    sequence runs. Nobody is admitted while somebody is preempted.
    """
    kept, num_free = _keep(state, budget)
    preempted = state.running[: len(kept) - len(state.running) - 1 : -1]
    admitted = [] if preempted else _admit(state, num_free, budget)
    return StepPlan(
        preempted=tuple(c.request_id for c in preempted),
        admitted=tuple(c.request_id for c in admitted),
        chunks=tuple(_rows([*kept, *admitted], budget)),
    )


def _keep(state: State, budget: Budget) -> tuple[list[Candidate], int]:
    """Return those that go on and the blocks still free when each has grown for its tokens."""
    kept, num_free = list(state.running), state.num_free_blocks
    index = 0
    while index < len(kept):
        missing = kept[index].num_missing(budget)
        while missing > num_free and len(kept) > max(index, 1):
            num_free += kept.pop().num_free
        if index < len(kept):
            num_free = max(0, num_free - missing)
        index += 1
    return kept, num_free


def _admit(state: State, num_free: int, budget: Budget) -> list[Candidate]:
    places = budget.max_running - len(state.running)
    background = sum(c.num_pending for c in state.running if c.is_background)
    computing = {(c.next_name, c.is_background) for c in state.running}
    admitted: list[Candidate] = []
    for candidate in state.waiting:
        reserve = len(state.running) + len(admitted)
        num_taken = candidate.num_missing(budget) + candidate.num_free
        if num_taken + reserve > num_free or len(admitted) == places:
            break
        if candidate.is_background and background >= budget.max_batch_tokens:
            break  # one batch of it in flight is enough: more would hold blocks and gain nothing
        if _is_awaited(candidate, computing):
            continue
        background += candidate.num_pending * candidate.is_background
        computing.add((candidate.next_name, candidate.is_background))
        admitted.append(candidate)
        num_free -= num_taken
    return admitted


def _is_awaited(candidate: Candidate, computing: set[tuple[bytes | None, bool]]) -> bool:
    """Tell whether what it computes next is under way, in a sequence that does not yield to it."""
    if candidate.next_name is None:
        return False
    tiers = {False, candidate.is_background}
    return any((candidate.next_name, tier) in computing for tier in tiers)


def _rows(candidates: list[Candidate], budget: Budget) -> list[Chunk]:
    left = budget.max_batch_tokens
    chunks: list[Chunk] = []
    for tier in _tiers(candidates):
        for candidate in tier:
            num_tokens = _chunk_tokens(candidate, left, budget)
            if not num_tokens:
                break  # those behind it must not overtake
            chunks.append(Chunk(request_id=candidate.request_id, num_tokens=num_tokens))
            left -= num_tokens
    return chunks


def _tiers(candidates: list[Candidate]) -> tuple[list[Candidate], ...]:
    decoding: list[Candidate] = []
    prompts: list[Candidate] = []
    background: list[Candidate] = []
    for candidate in candidates:
        if candidate.is_background:
            background.append(candidate)
        elif candidate.num_pending == 1:
            decoding.append(candidate)
        else:
            prompts.append(candidate)
    return decoding, prompts, background


def _chunk_tokens(candidate: Candidate, left: int, budget: Budget) -> int:
    if candidate.num_pending <= left:
        return candidate.num_pending
    end = (candidate.num_cached + left) // budget.tile_tokens * budget.tile_tokens
    return max(0, end - candidate.num_cached)
