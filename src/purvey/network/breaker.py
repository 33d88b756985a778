"""A circuit breaker: what has failed again and again is not waited for, but tried now and then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from purvey.errors import CapacityError, UpstreamUnavailableError

FAILURES = 5
"""Failures in a row that open it."""
OPEN_S = 10.0
"""How long it then refuses before one request is let through to try."""
State = Literal["closed", "open", "half-open"]


class Breaker:
    """Counts failures in a row. Lives on one event loop.

    Invariant: while it is not closed, at most one request is under way that it has let through
    since it opened.

    Args:
        name: What is behind it, for messages.
        monotonic: Seconds that only grow.
    """

    def __init__(self, name: str, *, monotonic: Callable[[], float]) -> None:
        self._name, self._monotonic = name, monotonic
        self._failures = 0
        self._retry_at = 0.0
        self._is_trying = False

    @property
    def state(self) -> State:
        """Whether requests pass, are refused, or one may try."""
        if self._failures < FAILURES:
            return "closed"
        return "open" if self._wait_s() > 0 else "half-open"

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Let one request through; how it leaves the block is how the other side does.

        An `Exception` is a failure. A `CapacityError` says nothing of it, as being cancelled.

        Raises:
            UpstreamUnavailableError: It is open, or another request tries just now.
        """
        is_probe = self._admit()
        try:
            yield
        except CapacityError:
            raise
        except Exception:
            self._failures += 1
            if self._failures >= FAILURES:
                self._retry_at = self._monotonic() + OPEN_S
            raise
        else:
            self._failures = 0
        finally:
            if is_probe:
                self._is_trying = False

    def _admit(self) -> bool:
        """Refuse, or tell whether this request is the one that tries."""
        if self._failures < FAILURES:
            return False
        wait_s = self._wait_s()
        if wait_s > 0 or self._is_trying:
            raise UpstreamUnavailableError(
                f"the upstream {self._name!r} has failed {self._failures} times in a row.",
                hint="It is tried again in a moment.",
                retry_after_s=max(wait_s, 1.0),
            )
        self._is_trying = True
        return True

    def _wait_s(self) -> float:
        return self._retry_at - self._monotonic()
