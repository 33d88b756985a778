"""The loop: take what came, plan, run, sample, answer; one thread owns all of it.

Other threads only put work and cancellations into the inbox. Every work that was accepted
ends in exactly one of `end`, `fail` and `cancel`, after its blocks are free again.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence as Listed
from itertools import islice

from torch import Tensor

from purvey import failpoints
from purvey.contracts.engine import EngineStats
from purvey.engine.batch import TILE_TOKENS, Span, build_batch
from purvey.engine.blocks import BlockPool
from purvey.engine.inbox import Inbox
from purvey.engine.kv_cache import BLOCK_TOKENS
from purvey.engine.request import Sequence
from purvey.engine.runner import Runner
from purvey.engine.scheduler import Budget, Candidate, State, plan
from purvey.engine.work import EndReason, Work
from purvey.errors import InternalError, PurveyError, SettingError
from purvey.telemetry.metrics import BROAD_CATCHES

logger = logging.getLogger(__name__)


class Core:
    """Continuous batching over one model.

    Invariants: a request is in exactly one of `_waiting` and `_running`; only running ones
    hold blocks, each as many as its worst case needs.

    Args:
        runner: The model and its cache.
        max_batch_tokens: Rows of one step at most.

    Raises:
        SettingError: `max_batch_tokens` leaves no room for a tile of prompt beside decoding.
    """

    def __init__(self, runner: Runner, *, max_batch_tokens: int) -> None:
        if max_batch_tokens < 2 * TILE_TOKENS:
            raise SettingError(
                f"max_batch_tokens is {max_batch_tokens}, and the least is {2 * TILE_TOKENS}.",
                param="max_batch_tokens",
            )
        self._runner = runner
        self._pool = BlockPool(num_blocks=runner.cache.num_blocks, block_tokens=BLOCK_TOKENS)
        self._budget = Budget(max_batch_tokens=max_batch_tokens, tile_tokens=TILE_TOKENS)
        self._running: dict[str, Work] = {}  # in order of admission
        self._waiting: dict[bool, OrderedDict[str, Work]] = {
            False: OrderedDict(),
            True: OrderedDict(),
        }
        self._num_steps = 0
        self._inbox = Inbox()

    # Any thread ------------------------------------------------------------------------------

    @property
    def cache_tokens(self) -> int:
        """Positions that the cache holds as a whole."""
        return self._pool.num_blocks * BLOCK_TOKENS

    def submit(self, work: Work) -> None:
        """Accept work.

        Raises:
            CapacityError: As many requests are held already as may be.
            ShuttingDownError: The engine drains.
        """
        self._inbox.put(work)

    def cancel(self, request_id: str) -> None:
        """Forget work within one step; unknown and finished ids are left alone."""
        self._inbox.cancel(request_id)

    def drain(self) -> None:
        """Accept nothing more; `run` returns when all that was accepted has ended."""
        self._inbox.drain()

    def stop(self) -> None:
        """Accept nothing more; `run` cancels what it holds and returns after this step."""
        self._inbox.stop()

    def stats(self) -> EngineStats:
        """Count what is held."""
        return EngineStats(
            running=len(self._running),
            waiting=sum(len(queue) for queue in self._waiting.values()) + len(self._inbox),
            free_blocks=self._pool.num_free,
            total_blocks=self._pool.num_blocks,
            steps=self._num_steps,
        )

    # The loop's thread -----------------------------------------------------------------------

    def run(self) -> None:
        """Step until drained or stopped; wait while there is nothing to do."""
        while self._inbox.wait(has_work=self._has_work):
            self.step()
        self._take_inbox()
        for request_id in [*self._running, *(i for queue in self._waiting.values() for i in queue)]:
            self._cancel(request_id)

    def step(self) -> bool:
        """Take the inbox and compute one batch; return whether there was anything to compute."""
        self._take_inbox()
        decision = plan(self._state(), self._budget)
        for request_id in decision.admitted:
            self._admit(request_id)
        if not decision.chunks:
            return False
        failpoints.reach("engine.step")
        chunks = [
            (self._running[chunk.request_id].sequence, chunk.num_tokens)
            for chunk in decision.chunks
            if chunk.request_id in self._running
        ]
        if chunks:
            self._compute(chunks)
        self._num_steps += 1
        return True

    def check(self) -> None:
        """Verify the invariants; called by tests after every step."""
        self._pool.check()
        for request_id, work in self._running.items():
            sequence = work.sequence
            assert sequence.request_id == request_id, "a request is filed under another's id"
            assert 0 <= sequence.num_cached <= sequence.max_positions, "a cache was overrun"
            assert not any(request_id in queue for queue in self._waiting.values()), "in two places"
        held = self._pool.num_blocks - self._pool.num_free
        assert held == sum(len(w.sequence.blocks) for w in self._running.values()), "blocks leaked"

    @property
    def _has_work(self) -> bool:
        return bool(self._running) or any(self._waiting.values())

    def _take_inbox(self) -> None:
        for message in self._inbox.take():
            if isinstance(message, str):
                self._cancel(message)
            else:
                self._enqueue(message)

    def _enqueue(self, work: Work) -> None:
        sequence = work.sequence
        queue = self._waiting[sequence.is_background]
        if sequence.request_id in self._running or sequence.request_id in queue:
            self._inbox.leave(is_background=sequence.is_background)
            work.fail(InternalError("a request with this id is running already."))
            return
        queue[sequence.request_id] = work

    def _state(self) -> State:
        most = self._budget.max_running
        waiting = [w for queue in self._waiting.values() for w in islice(queue.values(), most)]
        return State(
            running=tuple(self._candidate(work.sequence) for work in self._running.values()),
            waiting=tuple(self._candidate(work.sequence) for work in waiting),
            num_free_blocks=self._pool.num_free,
        )

    def _candidate(self, sequence: Sequence) -> Candidate:
        return Candidate(
            request_id=sequence.request_id,
            num_cached=sequence.num_cached,
            num_pending=sequence.num_pending,
            num_blocks=self._pool.blocks_for(sequence.max_positions),
            is_background=sequence.is_background,
        )

    def _admit(self, request_id: str) -> None:
        queue = next(queue for queue in self._waiting.values() if request_id in queue)
        work = queue.pop(request_id)
        sequence = work.sequence
        sequence.blocks = self._pool.allocate(request_id, sequence.max_positions)
        self._running[request_id] = work
        try:
            work.admit()
        except Exception as error:  # noqa: BLE001 (the request's fence: its neighbours go on)
            self._fail(work, error)

    def _compute(self, chunks: Listed[tuple[Sequence, int]]) -> None:
        """Run a batch; if it breaks, run its sequences one by one and fail only the culprit."""
        try:
            batch = build_batch(chunks, self._runner.cache)
            logits = self._runner.run(batch)
        except Exception as error:  # noqa: BLE001 (the request's fence: its neighbours go on)
            if len(chunks) == 1:
                self._fail(self._running[chunks[0][0].request_id], error)
                return
            logger.warning("engine.batch_failed", extra={"count": len(chunks)})
            for chunk in chunks:
                self._compute([chunk])
            return
        for span, logits_RV in zip(batch.spans, logits, strict=True):
            self._advance(span, logits_RV)

    def _advance(self, span: Span, logits_RV: Tensor) -> None:
        work = self._running[span.sequence.request_id]
        wanted = span.wanted  # before `take` appends and moves it
        span.sequence.num_cached = span.end
        try:
            reason = work.take(wanted, logits_RV)
            if reason is not None:
                self._end(work, reason)
        except Exception as error:  # noqa: BLE001 (the request's fence: its neighbours go on)
            self._fail(work, error)

    def _end(self, work: Work, reason: EndReason) -> None:
        self._forget(work)
        work.end(reason)

    def _cancel(self, request_id: str) -> None:
        places = (self._running, *self._waiting.values())
        work = next((place[request_id] for place in places if request_id in place), None)
        if work is not None:
            self._forget(work)
            work.cancel()

    def _fail(self, work: Work, error: Exception) -> None:
        """End one request in an error; the loop and its neighbours go on."""
        request_id = work.sequence.request_id
        self._forget(work)
        if not isinstance(error, PurveyError):
            logger.error("engine.request_failed", exc_info=error, extra={"request_id": request_id})
            BROAD_CATCHES.labels(where="engine").inc()
            error = InternalError("the engine failed on this request.")
        work.fail(error)

    def _forget(self, work: Work) -> None:
        """Take a work out of wherever it is and free its blocks; harmless when it is out."""
        sequence = work.sequence
        places = (self._running, *self._waiting.values())
        found = [place.pop(sequence.request_id, None) for place in places]
        self._pool.release(sequence.request_id)
        sequence.blocks = []
        if any(found):
            self._inbox.leave(is_background=sequence.is_background)
