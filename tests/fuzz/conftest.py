"""Seeds of the full runs, and how they tell what they did."""

import os
import secrets
import sys
from collections.abc import Callable

import pytest

Tell = Callable[[object], None]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """A function that shows a line although pytest captures output."""

    def write(what: object) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{what}\n")

    return write


@pytest.fixture
def fresh_seed(tell: Tell) -> int:
    """The seed of a full run: `FUZZ_SEED` repeats one, else it is new; shown either way."""
    seed = int(os.environ.get("FUZZ_SEED") or secrets.randbits(32))
    tell(f"FUZZ_SEED={seed}")
    return seed
