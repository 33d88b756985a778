"""A step that hangs is noticed; slow ones, and all that is no step, are let be."""

import threading

import pytest

from purvey.testing.clock import FakeClock
from purvey.worker.watchdog import FACTOR, FIRST_FACTOR, Watchdog

pytestmark = pytest.mark.row("CRA-25")
LEAST_S = 0.02


class Owner:
    """Who is told of a stall."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.has_heard = threading.Event()

    def hear(self, why: str) -> None:
        self.told.append(why)
        self.has_heard.set()


@pytest.fixture
def owner() -> Owner:
    return Owner()


def test_a_first_step_that_hangs_is_told_once(owner: Owner) -> None:
    dog = Watchdog(least_s=LEAST_S, on_stall=owner.hear)
    with dog.watching(), dog.step():
        assert owner.has_heard.wait(timeout=30)
    assert len(owner.told) == 1
    assert owner.told[0].startswith("stalled: step 1 of this attempt")


def test_a_later_step_is_measured_by_those_before_it(owner: Owner) -> None:
    clock = FakeClock()
    dog = Watchdog(least_s=1.0, on_stall=owner.hear, clock=clock)
    assert dog.allowed_s == FIRST_FACTOR
    for taken_s, allowed_s in ((0.01, 1.0), (2.0, 2.0 * FACTOR), (1.0, 2.0 * FACTOR)):
        with dog.step():
            clock.advance(taken_s)
        assert dog.allowed_s == pytest.approx(allowed_s)


def test_many_quick_steps_and_long_pauses_between_them_are_no_stall(owner: Owner) -> None:
    dog = Watchdog(least_s=LEAST_S, on_stall=owner.hear)
    pause = threading.Event()
    with dog.watching():
        for _ in range(500):
            with dog.step():
                pass
        pause.wait(10 * LEAST_S)
        with dog.step():
            pass
    assert owner.told == []


def test_a_step_that_raises_is_over(owner: Owner) -> None:
    dog = Watchdog(least_s=LEAST_S, on_stall=owner.hear)
    with dog.watching():
        with pytest.raises(ZeroDivisionError), dog.step():
            _ = 1 // 0
        threading.Event().wait(20 * LEAST_S)
    assert owner.told == []
