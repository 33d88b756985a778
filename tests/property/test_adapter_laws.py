"""Adapters over random lives: none is freed under a holder, none is forgotten, no unit is lost."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from purvey.engine.adapters.roster import Adapter, Roster
from purvey.engine.adapters.runs import RunPool
from purvey.errors import AdapterNotLoadedError, CapacityError

DIGESTS = ("a", "b", "c")
NUM_UNITS = 12


class Serving(RuleBasedStateMachine):
    """Adapters that come and go, and requests that hold them; a table is their memory."""

    def __init__(self) -> None:
        super().__init__()
        self.units = RunPool(NUM_UNITS)
        self.places: dict[Adapter, tuple[int, int]] = {}
        self.roster = Roster(self.free)
        self.holders: list[Adapter] = []
        self.dropped: dict[int, set[Adapter]] = {}
        self.answered: list[int] = []

    def free(self, adapter: Adapter) -> None:
        """Take an adapter's units back; nobody may hold it."""
        assert adapter not in self.holders, "freed under a holder"
        self.units.give_back(*self.places.pop(adapter))

    @rule(digest=st.sampled_from(DIGESTS), num_units=st.integers(1, 5))
    def load(self, digest: str, num_units: int) -> None:
        if self.roster.find(digest) is not None:
            return
        free = self.units.num_free
        try:
            start = self.units.take(num_units)
        except CapacityError:
            assert self.units.num_free == free
            return
        taken = {
            unit for first, count in self.places.values() for unit in range(first, first + count)
        }
        assert taken.isdisjoint(range(start, start + num_units)), "a unit was given twice"
        adapter = Adapter(digest, rank=1, num_bytes=num_units, pieces=())
        self.places[adapter] = start, num_units
        self.roster.put(adapter)

    @rule(digest=st.sampled_from(DIGESTS))
    def ask(self, digest: str) -> None:
        expected = self.roster.find(digest)
        if expected is None:
            with pytest.raises(AdapterNotLoadedError):
                self.roster.take(digest)
            return
        assert self.roster.take(digest) is expected
        self.holders.append(expected)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def hold_again(self, data: st.DataObject) -> None:
        adapter = data.draw(st.sampled_from(self.holders))
        self.roster.hold(adapter)
        self.holders.append(adapter)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        adapter = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.roster.release(adapter)

    @rule(digest=st.sampled_from(DIGESTS))
    def drop(self, digest: str) -> None:
        number = len(self.dropped)
        self.dropped[number] = {one for one in self.places if one.digest == digest}
        self.roster.drop(digest, lambda: self.answered.append(number))
        assert self.roster.find(digest) is None

    @invariant()
    def nothing_is_lost(self) -> None:
        self.roster.check()
        held = sum(count for _, count in self.places.values())
        assert self.units.num_free + held == NUM_UNITS
        loaded = {self.roster.find(digest) for digest in self.roster.digests}
        assert self.places.keys() == loaded | set(self.holders)

    @invariant()
    def a_drop_is_answered_once_when_nothing_computes_with_it(self) -> None:
        assert len(set(self.answered)) == len(self.answered)
        for number in self.answered:
            assert self.dropped[number].isdisjoint(self.places), "answered too early"
        if not self.holders:
            assert len(self.answered) == len(self.dropped), "a drop was never answered"

    def teardown(self) -> None:
        for adapter in self.holders.copy():
            self.holders.remove(adapter)
            self.roster.release(adapter)
        for digest in self.roster.digests:
            self.roster.drop(digest, lambda: None)
        assert self.units.num_free == NUM_UNITS


TestServing = Serving.TestCase
TestServing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
