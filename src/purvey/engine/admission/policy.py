"""Who goes first: levels with aging, then each project's fair share, then order of arrival.

Fair share is the virtual token counter (VTC) of Sheng et al. 2024, "Fairness in Serving Large
Language Models", algorithm 2: each project has a counter of what it was given, in weighted tokens,
and the one with the smallest is served next. Two departures: a project counts as present while it
runs, not only while it waits; and prompt tokens that were found in the cache cost nothing.

Aging: every `AGING_S` seconds of waiting raise a request by one level, up to the highest there is,
so that none waits for ever behind a higher one. Background work yields to all, whatever its age,
but for one: the oldest, once it has risen to the level of ordinary requests.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

AGING_S = 10.0
HIGHEST = 1
"""Level of the most urgent requests; ordinary ones have 0, and patient ones -1."""
OUTPUT_WEIGHT = 2
"""What an output token costs, in prompt tokens."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A waiting request as the policy sees it.

    Args:
        request_id: Whose it is.
        project: Whose share it uses.
        base_level: Its level when it came.
        arrived_s: When that was.
        num_tokens: What its prompt costs its project.
    """

    request_id: str
    project: str
    base_level: int
    arrived_s: float
    num_tokens: int


def level(base_level: int, arrived_s: float, now_s: float) -> int:
    """Return the level that a request has risen to."""
    return min(HIGHEST, base_level + int(max(0.0, now_s - arrived_s) / AGING_S))


def precedence(base_level: int, arrived_s: float, now_s: float) -> tuple[int, float]:
    """Return by what those that run are sorted; the last is the first to be preempted.

    The oldest of the highest level is the first, and stays it: that one always ends.
    """
    return -level(base_level, arrived_s, now_s), arrived_s


def order(
    entries: Iterable[Entry], served: Mapping[str, float], *, now_s: float, most: int
) -> list[str]:
    """Return the ids of those to be admitted next, the first one first.

    Args:
        entries: Those that wait, each project's in order of arrival.
        served: What each project was given, in weighted tokens.
        now_s: The time.
        most: How many are wanted.
    """
    spent = dict(served)
    lanes: dict[tuple[str, int], deque[Entry]] = {}
    for entry in entries:
        lanes.setdefault((entry.project, entry.base_level), deque()).append(entry)
    chosen: list[str] = []
    while lanes and len(chosen) < most:
        key = min(lanes, key=lambda lane: _rank(lanes[lane][0], spent, now_s))
        entry = lanes[key].popleft()
        if not lanes[key]:
            del lanes[key]
        spent[entry.project] = spent.get(entry.project, 0.0) + entry.num_tokens
        chosen.append(entry.request_id)
    return chosen


def _rank(entry: Entry, spent: Mapping[str, float], now_s: float) -> tuple[int, float, float]:
    now_level = level(entry.base_level, entry.arrived_s, now_s)
    return -now_level, spent.get(entry.project, 0.0), entry.arrived_s


class FairShare:
    """The counters of all projects, in weighted tokens.

    Invariant: a project that holds no request has a counter only while it is ahead of one that
    does, so there are never more than those that were here since the engine was last idle.
    """

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._num_held: Counter[str] = Counter()

    @property
    def served(self) -> Mapping[str, float]:
        """What each project was given."""
        return self._served

    def join(self, project: str) -> None:
        """Learn of an accepted request; who was away gets no credit for it."""
        if project not in self._num_held:
            present = min((self._served[other] for other in self._num_held), default=0.0)
            self._served[project] = max(self._served.get(project, 0.0), present)
        self._num_held[project] += 1

    def charge(self, project: str, num_tokens: int) -> None:
        """Count what a project was given, in prompt tokens."""
        self._served[project] += num_tokens

    def leave(self, project: str) -> None:
        """Learn that a request has ended."""
        self._num_held[project] -= 1
        if self._num_held[project]:
            return
        del self._num_held[project]
        least = min((self._served[other] for other in self._num_held), default=float("inf"))
        for other in [p for p in self._served if p not in self._num_held]:
            if self._served[other] <= least:
                del self._served[other]
