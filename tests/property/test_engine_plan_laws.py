"""The planner driven over whole lives of random requests."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from purvey.engine.blocks import BlockPool
from purvey.engine.scheduler import Budget, Candidate, State, plan

BLOCK_TOKENS = 4


@dataclass(kw_only=True)
class Request:
    """A request's life in numbers."""

    name: str
    prompt: int
    new: int
    is_background: bool
    arrives: int
    cached: int = 0
    known: int = 0
    admitted_at: int = -1

    @property
    def positions(self) -> int:
        """Cache positions in the worst case."""
        return self.prompt + max(self.new - 1, 0)


requests = st.builds(
    lambda prompt, new, background, arrives: (prompt, new, background, arrives),
    st.integers(1, 90),
    st.integers(0, 6),
    st.booleans(),
    st.integers(0, 12),
)


@settings(deadline=None)  # the machine may be busy
@given(
    lives=st.lists(requests, min_size=1, max_size=14),
    tile=st.sampled_from([4, 8, 16]),
    extra=st.integers(0, 20),
    num_blocks=st.integers(24, 60),
)
def test_every_request_is_served_in_order_within_the_budget(
    lives: list[tuple[int, int, bool, int]], tile: int, extra: int, num_blocks: int
) -> None:
    """Budget and blocks hold in every step; each tier is FIFO; all end; all blocks return."""
    budget = Budget(max_batch_tokens=2 * tile + extra, tile_tokens=tile)
    pool = BlockPool(num_blocks=num_blocks, block_tokens=BLOCK_TOKENS)
    coming = [
        Request(name=str(i), prompt=p, new=n, is_background=b, arrives=a, known=p)
        for i, (p, n, b, a) in enumerate(sorted(lives, key=lambda life: life[3]))
    ]
    waiting: list[Request] = []
    running: list[Request] = []
    for step in range(10_000):
        waiting += [r for r in coming if r.arrives == step]
        if not waiting and not running and step > 12:
            break
        decision = plan(
            State(
                running=tuple(_candidate(r, pool) for r in running),
                waiting=tuple(_candidate(r, pool) for r in waiting),
                num_free_blocks=pool.num_free,
            ),
            budget,
        )
        _admit(decision.admitted, waiting, running, pool, step)
        assert decision.num_tokens <= budget.max_batch_tokens
        assert len(running) <= budget.max_running
        assert bool(decision.chunks) == bool(running), "an idle step while requests run"
        assert len({c.request_id for c in decision.chunks}) == len(decision.chunks)
        for chunk in decision.chunks:
            request = next(r for r in running if r.name == chunk.request_id)
            assert 1 <= chunk.num_tokens <= request.known - request.cached
            request.cached += chunk.num_tokens
            assert request.cached == request.known or request.cached % tile == 0
            if request.cached == request.known and request.known < request.prompt + request.new:
                request.known += 1
        for request in [r for r in running if _is_over(r)]:
            running.remove(request)
            pool.release(request.name)
        pool.check()
    assert not waiting
    assert not running
    assert pool.num_free == num_blocks
    for tier in (True, False):
        admitted = [r.admitted_at for r in coming if r.is_background == tier]
        assert admitted == sorted(admitted), "a later request was admitted first"


def _candidate(request: Request, pool: BlockPool) -> Candidate:
    return Candidate(
        request_id=request.name,
        num_cached=request.cached,
        num_pending=request.known - request.cached,
        num_blocks=pool.blocks_for(request.positions),
        is_background=request.is_background,
    )


def _admit(
    names: tuple[str, ...],
    waiting: list[Request],
    running: list[Request],
    pool: BlockPool,
    step: int,
) -> None:
    for name in names:
        request = next(r for r in waiting if r.name == name)
        waiting.remove(request)
        pool.allocate(name, request.positions)  # raises if the plan promised too much
        request.admitted_at = step
        running.append(request)


def _is_over(request: Request) -> bool:
    """The last output token is sampled and never computed."""
    is_read = request.cached >= request.prompt
    return is_read and request.known == request.prompt + request.new
