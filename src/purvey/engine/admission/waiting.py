"""Sequences that were accepted and do not run: by project and priority, each in order of arrival.

One that was preempted goes back to the front of its line.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice

from purvey.engine.admission.policy import Entry, level, order
from purvey.engine.request import Sequence

_Line = OrderedDict[str, Sequence]
_Key = tuple[bool, str, int]
"""Background or not, project, priority."""


class WaitingRoom:
    """Everything that waits; decides who is next by `policy.order`.

    Invariant: no line is empty, and a sequence is in one line only.
    """

    def __init__(self) -> None:
        self._lines: dict[_Key, _Line] = {}
        self._keys: dict[str, _Key] = {}
        self._deadlines: list[tuple[float, str]] = []

    def __len__(self) -> int:
        """Count those that wait."""
        return len(self._keys)

    def __contains__(self, request_id: str) -> bool:
        """Tell whether a request waits."""
        return request_id in self._keys

    def __iter__(self) -> Iterator[str]:
        """List the ids of those that wait."""
        return iter(list(self._keys))

    def add(self, sequence: Sequence) -> None:
        """Let one wait behind those that came before; one that had started goes to the front."""
        key = (sequence.is_background, sequence.project, sequence.priority)
        line = self._lines.setdefault(key, OrderedDict())
        line[sequence.request_id] = sequence
        self._keys[sequence.request_id] = key
        if sequence.has_started:
            line.move_to_end(sequence.request_id, last=False)
        elif sequence.deadline_s is not None:
            due = sequence.arrived_s + sequence.deadline_s
            heapq.heappush(self._deadlines, (due, sequence.request_id))

    def pop(self, request_id: str) -> Sequence | None:
        """Take one out; None when it does not wait."""
        key = self._keys.pop(request_id, None)
        if key is None:
            return None
        sequence = self._lines[key].pop(request_id)
        if not self._lines[key]:
            del self._lines[key]
        return sequence

    def expired(self, now_s: float) -> list[str]:
        """Take note of those that had to start by now and have not, once each."""
        late: list[str] = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            due, request_id = heapq.heappop(self._deadlines)
            sequence = self._find(request_id)
            if sequence is not None and _is_due(sequence, due):
                late.append(request_id)
        return late

    def next_in_order(
        self, served: Mapping[str, float], *, now_s: float, most: int, may_promote: bool
    ) -> list[tuple[Sequence, bool]]:
        """Return those to be admitted next, and of each whether it counts as background.

        Args:
            served: What each project was given, in weighted tokens.
            now_s: The time.
            most: How many are wanted.
            may_promote: Whether one background sequence may count as interactive.
        """
        lines = self._lines.items()
        interactive = [s for key, line in lines if not key[0] for s in islice(line.values(), most)]
        background = [s for key, line in lines if key[0] for s in islice(line.values(), most)]
        promoted = oldest_risen(background, now_s) if may_promote else None
        if promoted is not None:
            interactive.append(promoted)
            background.remove(promoted)
        found = [(s, False) for s in _ordered(interactive, served, now_s, most)]
        most -= len(found)
        return [*found, *((s, True) for s in _ordered(background, served, now_s, most))]

    def _find(self, request_id: str) -> Sequence | None:
        key = self._keys.get(request_id)
        return None if key is None else self._lines[key][request_id]


def oldest_risen(background: list[Sequence], now_s: float) -> Sequence | None:
    """Return the oldest background sequence if it has risen to the level of ordinary requests."""
    oldest = min(background, key=lambda s: s.arrived_s, default=None)
    if oldest is None or level(oldest.level, oldest.arrived_s, now_s) < 0:
        return None
    return oldest


def _ordered(
    sequences: list[Sequence], served: Mapping[str, float], now_s: float, most: int
) -> list[Sequence]:
    by_id = {sequence.request_id: sequence for sequence in sequences}
    ids = order(map(_entry, sequences), served, now_s=now_s, most=most)
    return [by_id[request_id] for request_id in ids]


def _entry(sequence: Sequence) -> Entry:
    return Entry(
        request_id=sequence.request_id,
        project=sequence.project,
        base_level=sequence.level,
        arrived_s=sequence.arrived_s,
        num_tokens=0 if sequence.has_started else sequence.num_prompt,
    )


def _is_due(sequence: Sequence, due: float) -> bool:
    """Tell whether it is the same request still; an id may be given again."""
    return (
        not sequence.has_started
        and sequence.deadline_s is not None
        and sequence.arrived_s + sequence.deadline_s == due
    )
