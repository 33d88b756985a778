"""A process searches for no garbage while it imports, and for its own afterwards."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from purvey.worker import garbage


class Node:
    """Holds itself, so that only a search for garbage finds it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_what_was_there_is_left_alone_and_what_comes_later_is_collected() -> None:
    garbage.ignore()
    early = weakref.ref(Node())
    assert not gc.isenabled()
    garbage.collect_from_here()
    assert gc.isenabled()
    late = weakref.ref(Node())
    gc.collect()
    assert early() is not None
    assert late() is None


def test_where_nothing_was_ignored_nothing_is_left_alone() -> None:
    early = weakref.ref(Node())
    garbage.collect_from_here()
    gc.collect()
    assert early() is None
