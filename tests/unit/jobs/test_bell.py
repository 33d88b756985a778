"""Wake-ups inside one loop."""

from purvey.jobs.bell import Bell


def test_a_ring_reaches_everyone_who_listens_to_the_topic_and_nobody_else() -> None:
    bell = Bell()
    with bell.listen("a") as first, bell.listen("a", "b") as second, bell.listen("c") as third:
        bell.ring("a")
        assert (first.is_set(), second.is_set(), third.is_set()) == (True, True, False)
        first.clear()
        second.clear()
        bell.ring("b")
        assert (first.is_set(), second.is_set()) == (False, True)


def test_no_topic_is_kept_after_its_last_listener() -> None:
    bell = Bell()
    with bell.listen("a"), bell.listen("a"):
        pass
    bell.ring("a")
    assert not bell._listeners


def test_closing_wakes_every_listener_once_and_for_all() -> None:
    bell = Bell()
    with bell.listen("a") as first, bell.listen("b") as second:
        assert not bell.is_closed
        bell.close()
        assert (first.is_set(), second.is_set()) == (True, True)
    assert bell.is_closed
