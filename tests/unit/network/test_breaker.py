"""The circuit breaker: closed, open, one that tries, and what each end of that means."""

import asyncio

import pytest

from purvey.errors import UpstreamFailedError, UpstreamUnavailableError
from purvey.network.breaker import FAILURES, OPEN_S, Breaker
from purvey.testing.clock import FakeClock


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    return Breaker("box", monotonic=clock.monotonic)


def _state(breaker: Breaker) -> str:
    return breaker.state


def _fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(UpstreamFailedError), breaker.trial():
            raise UpstreamFailedError("down")


def _succeed(breaker: Breaker) -> None:
    with breaker.trial():
        pass


def _refusal(breaker: Breaker) -> UpstreamUnavailableError:
    with pytest.raises(UpstreamUnavailableError) as caught, breaker.trial():
        pytest.fail("it was let through")
    return caught.value


def test_only_failures_in_a_row_open_it(breaker: Breaker) -> None:
    for _ in range(3):
        _fail(breaker, FAILURES - 1)
        _succeed(breaker)
    assert _state(breaker) == "closed"
    _fail(breaker, FAILURES)
    assert _state(breaker) == "open"
    assert "'box' has failed 5 times in a row" in _refusal(breaker).message


def test_it_tells_how_long_it_stays_open(breaker: Breaker, clock: FakeClock) -> None:
    _fail(breaker, FAILURES)
    assert _refusal(breaker).retry_after_s == OPEN_S
    clock.advance(OPEN_S - 2)
    assert _refusal(breaker).retry_after_s == pytest.approx(2)


def test_then_one_tries_and_the_others_are_refused_meanwhile(
    breaker: Breaker, clock: FakeClock
) -> None:
    _fail(breaker, FAILURES)
    clock.advance(OPEN_S)
    assert _state(breaker) == "half-open"
    with breaker.trial():
        assert _refusal(breaker).retry_after_s == 1
    assert _state(breaker) == "closed"
    _succeed(breaker)


def test_a_try_that_fails_opens_it_anew(breaker: Breaker, clock: FakeClock) -> None:
    _fail(breaker, FAILURES)
    clock.advance(OPEN_S)
    _fail(breaker)
    assert _state(breaker) == "open"
    clock.advance(OPEN_S)
    _succeed(breaker)
    assert _state(breaker) == "closed"


def test_being_cancelled_or_refused_says_nothing(breaker: Breaker, clock: FakeClock) -> None:
    _fail(breaker, FAILURES)
    clock.advance(OPEN_S)
    for error in (asyncio.CancelledError(), UpstreamUnavailableError("busy")):
        with pytest.raises(type(error)), breaker.trial():
            raise error
        assert _state(breaker) == "half-open"  # the next one may try
    _succeed(breaker)
    assert _state(breaker) == "closed"
