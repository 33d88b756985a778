"""A clock that a test moves by hand."""

import threading


class FakeClock:
    """Time that stands still until `advance`; safe to move from another thread.

    Args:
        start: First value of `now`, in epoch seconds.
    """

    def __init__(self, start: float = 1_750_000_000.0) -> None:
        self._lock = threading.Lock()
        self._now = start
        self._monotonic = 1_000.0

    def now(self) -> float:
        """Return seconds since the epoch."""
        with self._lock:
            return self._now

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        with self._lock:
            return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: `seconds` is negative; use `step_back` for a clock that is set wrong.
        """
        if seconds < 0:
            msg = "time passes forwards"
            raise ValueError(msg)
        with self._lock:
            self._now += seconds
            self._monotonic += seconds

    def step_back(self, seconds: float) -> None:
        """Set the wall clock back, as NTP may; `monotonic` does not notice."""
        self.step(-seconds)

    def step(self, seconds: float) -> None:
        """Set the wall clock on, or back if negative; `monotonic` does not notice."""
        with self._lock:
            self._now += seconds
