"""Noticing a step that hangs: the worker's heartbeats come from a thread and go on without it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from purvey.contracts.clock import Clock, SystemClock

FACTOR = 20.0
"""A step may take this many times as long as the longest before it."""
FIRST_FACTOR = 12.0
"""The first step has none before it, and may take this many times `least_s`."""
_LOOKS = 20


class Watchdog:
    """Watches stretches of one kind, in a thread of its own, and tells of one that hangs.

    Time is counted in looks, so that a process that was stopped as a whole is not taken for
    stuck. Use as `with dog.watching(): ... with dog.step(): ...`.

    Args:
        least_s: What every step may take.
        on_stall: Called once, in the watching thread, with a line for the owner.
        clock: Measures the steps.
    """

    def __init__(
        self, *, least_s: float, on_stall: Callable[[str], None], clock: Clock | None = None
    ) -> None:
        self._least_s, self._on_stall = least_s, on_stall
        self._clock = clock or SystemClock()
        self._longest_s: float | None = None
        self._num_begun = 0
        self._is_inside = False
        self._is_over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch until the block is left."""
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Let the block be watched."""
        began = self._clock.monotonic()
        self._num_begun += 1
        self._is_inside = True
        try:
            yield
        finally:
            self._is_inside = False
            self._longest_s = max(self._longest_s or 0.0, self._clock.monotonic() - began)

    @property
    def allowed_s(self) -> float:
        """What the step at hand may take."""
        if self._longest_s is None:
            return FIRST_FACTOR * self._least_s
        return max(self._least_s, FACTOR * self._longest_s)

    def _watch(self) -> None:
        look_s, looks, step = self._least_s / _LOOKS, 0, 0
        while not self._is_over.wait(look_s):
            is_same = self._is_inside and self._num_begun == step
            step, looks = self._num_begun, looks + 1 if is_same else 0
            if looks * look_s >= self.allowed_s:
                self._on_stall(
                    f"stalled: step {step} of this attempt has taken {looks * look_s:,.1f} s; "
                    f"the longest before it took {self._longest_s or 0.0:,.1f} s."
                )
                return
