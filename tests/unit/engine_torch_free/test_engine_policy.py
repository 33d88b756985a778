"""Who goes first: levels, aging, fair share, arrival."""

from purvey.engine.admission.floor import Floor
from purvey.engine.admission.policy import AGING_S, Entry, FairShare, level, order, precedence
from purvey.engine.admission.waiting import WaitingRoom
from purvey.engine.request import Sequence
from purvey.engine.scheduler import Budget, plan


def entry(
    name: str, *, project: str = "p", level: int = 0, arrived: float = 0.0, tokens: int = 10
) -> Entry:
    return Entry(
        request_id=name, project=project, base_level=level, arrived_s=arrived, num_tokens=tokens
    )


def sequence(
    name: str,
    *,
    project: str = "p",
    priority: int = 0,
    arrived: float = 0.0,
    background: bool = False,
    deadline: float | None = None,
) -> Sequence:
    return Sequence(
        request_id=name,
        tokens=[1, 2, 3],
        num_prompt=3,
        max_new_tokens=1,
        project=project,
        priority=priority,
        arrived_s=arrived,
        is_background=background,
        deadline_s=deadline,
    )


def room(*sequences: Sequence) -> WaitingRoom:
    waiting = WaitingRoom()
    for one in sequences:
        waiting.add(one)
    return waiting


def next_ids(waiting: WaitingRoom, now: float = 0.0, *, promote: bool = True) -> list[str]:
    found = waiting.next_in_order({}, now_s=now, most=10, may_promote=promote)
    return [s.request_id + "~" * is_background for s, is_background in found]


def test_one_project_is_served_in_order_of_arrival() -> None:
    entries = [entry(name, arrived=i) for i, name in enumerate("abc")]
    assert order(entries, {}, now_s=3.0, most=2) == ["a", "b"]


def test_projects_take_turns_by_what_they_were_given_not_by_how_many_they_ask() -> None:
    many = [entry(f"a{i}", project="A", arrived=i) for i in range(4)]
    few = [entry(f"b{i}", project="B", arrived=4 + i, tokens=20) for i in range(2)]
    assert order([*many, *few], {}, now_s=9.0, most=6) == ["a0", "b0", "a1", "a2", "b1", "a3"]
    assert order([*many, *few], {"A": 35.0}, now_s=9.0, most=3) == ["b0", "b1", "a0"]


def test_a_higher_level_goes_first_until_a_lower_one_has_waited() -> None:
    low = entry("low", level=-1, arrived=0.0)
    for now, first in ((0.0, "high"), (AGING_S, "high"), (2 * AGING_S, "low")):
        high = entry("high", level=1, arrived=now)
        assert order([low, high], {}, now_s=now, most=1) == [first]


def test_levels_end_at_the_highest() -> None:
    assert [level(-1, 5.0, 5.0 + AGING_S * n) for n in (0, 1, 2, 3, 99)] == [-1, 0, 1, 1, 1]
    assert level(0, 5.0, 4.0) == 0


def test_the_oldest_of_the_highest_level_is_preempted_last() -> None:
    ages = [(1, 30.0), (0, 5.0), (0, 4.0), (-1, 29.0)]
    ordered = sorted(ages, key=lambda one: precedence(one[0], one[1], 31.0))
    assert ordered == [(0, 4.0), (0, 5.0), (1, 30.0), (-1, 29.0)]


def test_who_was_away_gets_no_credit_for_it() -> None:
    share = FairShare()
    share.join("A")
    share.charge("A", 100)
    share.join("B")
    assert share.served == {"A": 100, "B": 100}
    share.charge("B", 50)
    share.leave("B")
    assert share.served == {"A": 100, "B": 150}  # it stays in front for as long as A is behind
    share.join("B")
    assert share.served["B"] == 150


def test_counters_of_those_that_are_gone_are_forgotten() -> None:
    share = FairShare()
    for i in range(100):
        share.join("steady")
        share.join(f"p{i}")
        share.charge("steady", 10)
        share.charge(f"p{i}", 5)
        share.leave(f"p{i}")
    assert len(share.served) <= 2
    for _ in range(100):
        share.leave("steady")
    assert share.served == {}


def test_background_yields_to_all_that_is_not() -> None:
    waiting = room(sequence("score", background=True), sequence("late", arrived=1.0, priority=-1))
    assert next_ids(waiting) == ["late", "score~"]


def test_one_background_sequence_rises_when_it_has_waited() -> None:
    waiting = room(
        sequence("score", background=True),
        sequence("next", background=True, arrived=1.0),
        sequence("chat", arrived=7 * AGING_S),
    )
    assert next_ids(waiting, 5 * AGING_S) == ["chat", "score~", "next~"]
    assert next_ids(waiting, 7 * AGING_S) == ["score", "chat", "next~"]
    assert next_ids(waiting, 7 * AGING_S, promote=False) == ["chat", "score~", "next~"]


def test_one_that_was_preempted_waits_in_front() -> None:
    back = sequence("back", arrived=3.0)
    back.has_started = True
    assert next_ids(room(sequence("a", arrived=1.0), back)) == ["back", "a"]


def test_deadlines_pass_once_and_only_for_those_that_did_not_start() -> None:
    started = sequence("started", deadline=1.0)
    started.has_started = True
    waiting = room(
        sequence("soon", deadline=1.0), sequence("later", arrived=2.0, deadline=1.0), started
    )
    assert waiting.expired(0.5) == []
    assert waiting.expired(1.0) == ["soon"]
    assert waiting.pop("later") is not None
    assert waiting.expired(9.0) == []
    assert sorted(waiting) == ["soon", "started"]
    assert waiting.pop("never came") is None


def test_a_project_that_asks_much_does_not_hold_back_another() -> None:
    """There is room for one at a time; who was given less is next, whoever came first."""
    budget = Budget(max_batch_tokens=16, tile_tokens=8, block_tokens=4)
    floor = Floor(budget, num_blocks=1, has_prefix_cache=False)
    coming = [sequence(f"a{i}", project="A", arrived=i) for i in range(5)]
    coming += [sequence(f"b{i}", project="B", arrived=5 + i) for i in range(2)]
    for one in coming:
        floor.add(one)
    started: list[str] = []
    for _ in coming:
        (admitted,) = floor.admit(plan(floor.state(7.0), budget).admitted)
        started.append(admitted.request_id)
        floor.check()
        floor.remove(admitted)
    assert started == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]
