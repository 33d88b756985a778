"""The sequences of one engine: which run, which wait, which blocks each has, whose share it is.

It shows the planner a frozen state and carries out what the planner decides.
"""

from collections.abc import Iterable, KeysView
from dataclasses import dataclass

from purvey.engine.admission.policy import OUTPUT_WEIGHT, FairShare, precedence
from purvey.engine.admission.prefix import PrefixCache
from purvey.engine.admission.waiting import WaitingRoom, oldest_risen
from purvey.engine.blocks import BlockPool
from purvey.engine.request import Sequence
from purvey.engine.scheduler import Budget, Candidate, State

_MOST_LOOKED_AT = 32
"""Waiting sequences that one step looks at, and so admits, at most: looking costs time."""


@dataclass(kw_only=True)
class Counts:
    """What happened since the engine started.

    Args:
        preemptions: Times that a sequence gave its blocks back to go on later.
        queried_tokens: Prompt tokens of sequences that started.
        hit_tokens: How many of these were found in the cache.
    """

    preemptions: int = 0
    queried_tokens: int = 0
    hit_tokens: int = 0


class Floor:
    """Everything that was accepted and has not ended.

    Invariants: a sequence runs or waits, never both; only those that run hold blocks, and every
    block is held by as many as the pool counts.

    Args:
        budget: What one step may take.
        num_blocks: Blocks in the pool.
        has_prefix_cache: Whether blocks are found again by what they hold.
    """

    def __init__(self, budget: Budget, *, num_blocks: int, has_prefix_cache: bool) -> None:
        self._budget = budget
        self._pool = BlockPool(num_blocks=num_blocks, block_tokens=budget.block_tokens)
        self._cache = PrefixCache(
            self._pool, tile_tokens=budget.tile_tokens, is_enabled=has_prefix_cache
        )
        self._running: dict[str, Sequence] = {}
        self._waiting = WaitingRoom()
        self._share = FairShare()
        self._num_charged: dict[str, int] = {}
        self.counts = Counts()

    @property
    def num_running(self) -> int:
        """Sequences that hold blocks."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that hold none."""
        return len(self._waiting)

    @property
    def num_free_blocks(self) -> int:
        """Blocks that nobody holds."""
        return self._pool.num_free

    def ids(self) -> KeysView[str]:
        """Return the ids of all that run or wait."""
        return self._num_charged.keys()

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait."""
        self._num_charged[sequence.request_id] = 0
        self._share.join(sequence.project)
        self._waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that has ended, wherever it is."""
        if self._running.pop(sequence.request_id, None) is None:
            self._waiting.pop(sequence.request_id)
        self._cache.release(sequence)
        self._share.leave(sequence.project)
        del self._num_charged[sequence.request_id]

    def expired(self, now_s: float) -> list[str]:
        """List those that had to start by now and have not, once each."""
        return self._waiting.expired(now_s)

    def state(self, now_s: float) -> State:
        """Show the planner who runs and who is next, in order of precedence."""
        background = [s for s in self._running.values() if s.is_background]
        risen = oldest_risen(background, now_s)
        running = [(s, s.is_background and s is not risen) for s in self._running.values()]
        running.sort(key=lambda r: (r[1], *precedence(r[0].level, r[0].arrived_s, now_s)))
        is_short = self._pool.num_free < len(running)
        places = min(_MOST_LOOKED_AT, self._budget.max_running - len(running))
        waiting = self._waiting.next_in_order(
            self._share.served, now_s=now_s, most=places, may_promote=risen is None
        )
        return State(
            running=tuple(self._runs(s, is_background=b, is_short=is_short) for s, b in running),
            waiting=tuple(self._waits(s, is_background=b) for s, b in waiting),
            num_free_blocks=self._pool.num_free,
        )

    def preempt(self, request_id: str) -> None:
        """Take a sequence's blocks away; it waits in front of its line."""
        sequence = self._running.pop(request_id)
        self._cache.preempt(sequence)
        self._waiting.add(sequence)
        self.counts.preemptions += 1

    def admit(self, request_ids: Iterable[str]) -> list[Sequence]:
        """Give blocks to those that wait; return those that had not started before.

        What was found for one is held before the next gets free blocks: the plan has counted so.
        """
        sequences = [s for s in map(self._waiting.pop, request_ids) if s is not None]
        for sequence in sequences:
            self._cache.claim(sequence, self._cache.look_up(sequence))
        for sequence in sequences:
            self._cache.grow(sequence, len(sequence.tokens))
            self._running[sequence.request_id] = sequence
        fresh = [s for s in sequences if not s.has_started]
        for sequence in fresh:
            self._start(sequence)
        return fresh

    def make_room(self, chunks: Iterable[tuple[Sequence, int]]) -> None:
        """Give blocks for the positions that are computed next."""
        for sequence, num_tokens in chunks:
            self._cache.grow(sequence, sequence.num_cached + num_tokens)

    def computed(self, sequence: Sequence, num_tokens: int) -> None:
        """Learn that so many more positions of a sequence are in the cache."""
        start = sequence.num_cached
        sequence.num_cached += num_tokens
        sequence.num_read = max(sequence.num_read, sequence.num_cached)
        self._cache.note(sequence, start)

    def charge_output(self, sequence: Sequence) -> None:
        """Charge a sequence's project for output that is new."""
        num_new = sequence.num_output - self._num_charged[sequence.request_id]
        if num_new:
            self._num_charged[sequence.request_id] += num_new
            self._share.charge(sequence.project, OUTPUT_WEIGHT * num_new)

    def check(self) -> None:
        """Verify the invariants; called by tests after every step."""
        self._pool.check(block for s in self._running.values() for block in s.blocks)
        waiting = set(self._waiting)
        assert waiting.isdisjoint(self._running), "in two places"
        assert waiting | self._running.keys() == self.ids(), "a sequence was lost"
        for request_id, sequence in self._running.items():
            assert sequence.request_id == request_id, "a sequence is filed under another's id"
            room = len(sequence.blocks) * self._budget.block_tokens
            most = min(room, sequence.max_positions)
            assert 0 <= sequence.num_cached <= most, "a cache was overrun"

    def _start(self, sequence: Sequence) -> None:
        sequence.has_started, sequence.num_reused = True, sequence.num_cached
        self._share.charge(sequence.project, sequence.num_prompt - sequence.num_reused)
        self.counts.queried_tokens += sequence.num_prompt
        self.counts.hit_tokens += sequence.num_reused

    def _runs(self, sequence: Sequence, *, is_background: bool, is_short: bool) -> Candidate:
        return Candidate(
            request_id=sequence.request_id,
            num_cached=sequence.num_cached,
            num_pending=sequence.num_pending,
            num_blocks=len(sequence.blocks),
            # Counted only when somebody may have to be preempted: each grows by one at most.
            num_free=self._cache.num_own(sequence) if is_short else 0,
            is_background=is_background,
            next_name=self._cache.next_name(sequence),
        )

    def _waits(self, sequence: Sequence, *, is_background: bool) -> Candidate:
        hit = self._cache.look_up(sequence)
        return Candidate(
            request_id=sequence.request_id,
            num_cached=hit.num_tokens,
            num_pending=len(sequence.tokens) - hit.num_tokens,
            num_blocks=len(hit.blocks),
            num_free=hit.num_idle,
            is_background=is_background,
            next_name=hit.next_name,
        )
