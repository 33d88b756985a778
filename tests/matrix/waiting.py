"""Waiting for what another process brings about."""

import threading
import time
from collections.abc import Callable

PATIENCE_S = 400.0
"""A test that has to wait so long fails."""


def wait_until(is_so: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
    """Look again and again until it is so."""
    pause, deadline = threading.Event(), time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline, "it never came to that"
        pause.wait(0.05)
