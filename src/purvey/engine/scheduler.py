"""What the next step computes: one pure decision, `plan(state, budget)`.

Requests are served in the order they came, in three tiers: one token for every sequence
that decodes, then the prompts of interactive requests, then background work (scores). A
sequence is admitted only when its worst case of blocks is free, so nothing ever has to be
evicted. Prompts are split between steps only at multiples of `tile_tokens`, because the
attention of a position is computed in tiles that start there: a prompt's arithmetic is
then the same however its neighbours force it to be split.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one step may take.

    Args:
        max_batch_tokens: Rows of one step at most.
        tile_tokens: Prompts are split only at multiples of this many positions.
    """

    max_batch_tokens: int
    tile_tokens: int

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
        num_blocks: Blocks of its worst case; held already when running.
        is_background: Whether it yields to all that are not.
    """

    request_id: str
    num_cached: int
    num_pending: int
    num_blocks: int
    is_background: bool = False


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything the decision depends on; both queues in order of arrival."""

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
    """Who is admitted, and which rows are computed (newly admitted ones included)."""

    admitted: tuple[str, ...]
    chunks: tuple[Chunk, ...]

    @property
    def num_tokens(self) -> int:
        """Rows of the step."""
        return sum(chunk.num_tokens for chunk in self.chunks)


def plan(state: State, budget: Budget) -> StepPlan:
    """Decide the next step.

    The plan never exceeds the token budget or the free blocks, never admits a request before
    one that came earlier in its tier, and computes at least one row whenever a sequence runs.
    """
    admitted = _admit(state, budget)
    in_order = (*state.running, *admitted)
    left = budget.max_batch_tokens
    chunks: list[Chunk] = []
    for tier in _tiers(in_order):
        for candidate in tier:
            num_tokens = _chunk_tokens(candidate, left, budget)
            if not num_tokens:
                break  # those behind it must not overtake
            chunks.append(Chunk(request_id=candidate.request_id, num_tokens=num_tokens))
            left -= num_tokens
    return StepPlan(admitted=tuple(c.request_id for c in admitted), chunks=tuple(chunks))


def _admit(state: State, budget: Budget) -> list[Candidate]:
    free = state.num_free_blocks
    places = budget.max_running - len(state.running)
    background = sum(c.num_pending for c in state.running if c.is_background)
    admitted: list[Candidate] = []
    for candidate in sorted(state.waiting, key=lambda c: c.is_background):  # stable: FIFO
        if candidate.num_blocks > free or len(admitted) == places:
            break
        if candidate.is_background:
            # One batch of it in flight is enough: more would hold blocks and gain nothing.
            if background >= budget.max_batch_tokens:
                break
            background += candidate.num_pending
        admitted.append(candidate)
        free -= candidate.num_blocks
    return admitted


def _tiers(candidates: tuple[Candidate, ...]) -> tuple[list[Candidate], ...]:
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
