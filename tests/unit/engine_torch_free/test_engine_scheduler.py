"""Single decisions of the planner; `tests/property` has the laws."""

from purvey.engine.scheduler import Budget, Candidate, Chunk, State, plan

BUDGET = Budget(max_batch_tokens=64, tile_tokens=16, block_tokens=8)


def candidate(
    name: str,
    pending: int,
    *,
    cached: int = 0,
    blocks: int = 0,
    free: int = 0,
    background: bool = False,
    next_name: bytes | None = None,
) -> Candidate:
    return Candidate(
        request_id=name,
        num_cached=cached,
        num_pending=pending,
        num_blocks=blocks,
        num_free=free,
        is_background=background,
        next_name=next_name,
    )


def decide(*, running: list[Candidate], waiting: list[Candidate], free: int = 100) -> list[object]:
    decision = plan(
        State(running=tuple(running), waiting=tuple(waiting), num_free_blocks=free), BUDGET
    )
    return [decision.admitted, [(c.request_id, c.num_tokens) for c in decision.chunks]]


def preempted(running: list[Candidate], *, free: int) -> tuple[str, ...]:
    waiting = (candidate("waits", 1),)
    decision = plan(State(running=tuple(running), waiting=waiting, num_free_blocks=free), BUDGET)
    assert not (decision.preempted and decision.admitted)
    assert not set(decision.preempted) & {chunk.request_id for chunk in decision.chunks}
    return decision.preempted


def test_nothing_to_do() -> None:
    assert decide(running=[], waiting=[]) == [(), []]


def test_decoding_comes_before_prompts_and_prompts_before_background() -> None:
    running = [
        candidate("score", 20, background=True),
        candidate("prompt", 30),
        candidate("decodes", 1, cached=99),
    ]
    chunks = [("decodes", 1), ("prompt", 30), ("score", 20)]
    assert decide(running=running, waiting=[]) == [(), chunks]


def test_a_prompt_is_split_at_tiles_only() -> None:
    running = [candidate("decodes", 1, cached=9), candidate("long", 200)]
    assert decide(running=running, waiting=[])[1] == [("decodes", 1), ("long", 48)]
    running = [candidate("decodes", 1, cached=9), candidate("long", 152, cached=48)]
    assert decide(running=running, waiting=[])[1] == [("decodes", 1), ("long", 48)]


def test_the_first_that_does_not_fit_holds_back_those_behind_it() -> None:
    waiting = [candidate("big", 40), candidate("small", 8)]
    assert decide(running=[], waiting=waiting, free=4) == [(), []]
    assert decide(running=[], waiting=waiting, free=7)[0] == ("big", "small")


def test_one_block_more_is_left_free_for_each_that_runs() -> None:
    running = [candidate("a", 1, cached=3, blocks=1), candidate("b", 1, cached=3, blocks=1)]
    assert decide(running=running, waiting=[candidate("c", 8)], free=2)[0] == ()
    assert decide(running=running, waiting=[candidate("c", 8)], free=3)[0] == ("c",)
    assert decide(running=[], waiting=[candidate("c", 8)], free=1)[0] == ("c",)


def test_what_was_found_is_not_counted_twice() -> None:
    """Two blocks of five are known; if nobody holds them they are taken from the free ones."""
    held = candidate("a", 24, cached=16, blocks=2)
    idle = candidate("a", 24, cached=16, blocks=2, free=2)
    assert decide(running=[], waiting=[held], free=3)[0] == ("a",)
    assert decide(running=[], waiting=[idle], free=4)[0] == ()
    assert decide(running=[], waiting=[idle], free=5) == [("a",), [("a", 24)]]


def test_the_last_are_preempted_until_the_first_can_go_on() -> None:
    running = [candidate(name, 1, cached=8, blocks=1, free=1) for name in "abcd"]
    assert preempted(running, free=4) == ()
    assert preempted(running, free=3) == ("d",)
    assert preempted(running, free=0) == ("d", "c")
    assert preempted(running[:1], free=1) == ()


def test_a_block_that_others_hold_frees_nothing() -> None:
    running = [
        candidate(n, 1, cached=8, blocks=1, free=f) for n, f in zip("abc", (1, 1, 0), strict=True)
    ]
    assert preempted(running, free=0) == ("c", "b")


def test_one_that_needs_no_block_is_not_in_the_way() -> None:
    running = [candidate("a", 1, cached=9, blocks=2), candidate("b", 1, cached=8, blocks=1, free=1)]
    assert preempted(running, free=0) == ("b",)


def test_one_waits_for_what_another_is_about_to_compute() -> None:
    first = candidate("a", 40, next_name=b"system")
    second = candidate("b", 40, next_name=b"system")
    other = candidate("c", 8, next_name=b"other")
    assert decide(running=[], waiting=[first, second, other])[0] == ("a", "c")
    assert decide(running=[first], waiting=[second, other])[0] == ("c",)


def test_nobody_waits_for_what_background_work_computes_but_background_work() -> None:
    first = candidate("a", 40, next_name=b"system", background=True)
    second = candidate("b", 40, next_name=b"system")
    third = candidate("c", 20, next_name=b"system", background=True)
    assert decide(running=[first], waiting=[second])[0] == ("b",)
    assert decide(running=[first], waiting=[third])[0] == ()


def test_only_a_batch_of_background_is_in_flight() -> None:
    waiting = [candidate(f"score-{i}", 40, background=True) for i in range(9)]
    assert decide(running=[], waiting=waiting)[0] == ("score-0", "score-1")


def test_places_are_limited_so_that_a_tile_always_fits() -> None:
    waiting = [candidate(str(i), 1) for i in range(100)]
    admitted = decide(running=[], waiting=waiting, free=1000)[0]
    assert admitted == tuple(str(i) for i in range(48))


def test_the_plan_counts_its_rows() -> None:
    state = State(running=(candidate("a", 3), candidate("b", 1)), waiting=(), num_free_blocks=2)
    decision = plan(state, BUDGET)
    assert decision.num_tokens == 4
    assert decision.chunks[0] == Chunk(request_id="b", num_tokens=1)
