"""Single decisions of the planner; `tests/property` has the laws."""

from purvey.engine.scheduler import Budget, Candidate, Chunk, State, plan

BUDGET = Budget(max_batch_tokens=64, tile_tokens=16)


def candidate(
    name: str, pending: int, *, cached: int = 0, blocks: int = 1, background: bool = False
) -> Candidate:
    return Candidate(
        request_id=name,
        num_cached=cached,
        num_pending=pending,
        num_blocks=blocks,
        is_background=background,
    )


def decide(*, running: list[Candidate], waiting: list[Candidate], free: int = 100) -> list[object]:
    decision = plan(
        State(running=tuple(running), waiting=tuple(waiting), num_free_blocks=free), BUDGET
    )
    return [decision.admitted, [(c.request_id, c.num_tokens) for c in decision.chunks]]


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
    waiting = [candidate("big", 10, blocks=5), candidate("small", 10, blocks=1)]
    assert decide(running=[], waiting=waiting, free=4) == [(), []]
    assert decide(running=[], waiting=waiting, free=6)[0] == ("big", "small")


def test_background_waits_for_interactive_ones_that_came_later() -> None:
    waiting = [candidate("score", 10, background=True), candidate("chat", 10)]
    assert decide(running=[], waiting=waiting)[0] == ("chat", "score")
    assert decide(running=[], waiting=waiting, free=0)[0] == ()


def test_only_a_batch_of_background_is_in_flight() -> None:
    waiting = [candidate(f"score-{i}", 40, background=True) for i in range(9)]
    assert decide(running=[], waiting=waiting)[0] == ("score-0", "score-1")


def test_places_are_limited_so_that_a_tile_always_fits() -> None:
    waiting = [candidate(str(i), 1) for i in range(100)]
    admitted = decide(running=[], waiting=waiting)[0]
    assert admitted == tuple(str(i) for i in range(48))


def test_the_plan_counts_its_rows() -> None:
    state = State(running=(candidate("a", 3), candidate("b", 1)), waiting=(), num_free_blocks=0)
    decision = plan(state, BUDGET)
    assert decision.num_tokens == 4
    assert decision.chunks[0] == Chunk(request_id="b", num_tokens=1)
