"""The loop: take what came, plan, run, sample, answer; one thread owns all of it.

Other threads only put work and cancellations into the inbox. Every work that was accepted
ends in exactly one of `end`, `fail` and `cancel`, after its blocks are free again.
"""

import logging
from collections.abc import Sequence as Listed

from purvey import failpoints
from purvey.contracts.clock import Clock, SystemClock
from purvey.contracts.engine import EngineStats
from purvey.engine.adapters.roster import Roster
from purvey.engine.admission.floor import Floor
from purvey.engine.batch import TILE_TOKENS, Span, build_batch
from purvey.engine.inbox import Inbox
from purvey.engine.kv_cache import BLOCK_TOKENS
from purvey.engine.logits import SpanLogits
from purvey.engine.request import Sequence
from purvey.engine.runner import StepRunner
from purvey.engine.scheduler import Budget, StepPlan, plan
from purvey.engine.work import EndReason, Work
from purvey.errors import DeadlineExceededError, InternalError, PurveyError, SettingError
from purvey.telemetry.metrics import BROAD_CATCHES

logger = logging.getLogger(__name__)


class Core:
    """Continuous batching over one model.

    Invariant: `_works` holds what was taken from the inbox and has not ended; `_floor` has the
    sequence of each, running or waiting.

    Args:
        runner: The model and its cache.
        max_batch_tokens: Rows of one step at most.
        has_prefix_cache: Whether blocks are found again by what they hold.
        roster: The adapters; each sequence holds its own from when it is accepted to its end.
        clock: What ages and deadlines are measured with.

    Raises:
        SettingError: `max_batch_tokens` leaves no room for a tile of prompt beside decoding.
    """

    def __init__(
        self,
        runner: StepRunner,
        *,
        max_batch_tokens: int,
        has_prefix_cache: bool = True,
        roster: Roster | None = None,
        clock: Clock | None = None,
    ) -> None:
        if max_batch_tokens < 2 * TILE_TOKENS:
            raise SettingError(
                f"max_batch_tokens is {max_batch_tokens}, and the least is {2 * TILE_TOKENS}.",
                param="max_batch_tokens",
            )
        self._runner, self._clock = runner, clock or SystemClock()
        self._num_blocks = runner.cache.num_blocks
        self._budget = Budget(
            max_batch_tokens=max_batch_tokens, tile_tokens=TILE_TOKENS, block_tokens=BLOCK_TOKENS
        )
        self._floor = Floor(
            self._budget, num_blocks=self._num_blocks, has_prefix_cache=has_prefix_cache
        )
        self._roster = roster or Roster(lambda adapter: None)
        self._works: dict[str, Work] = {}
        self._num_steps = 0
        self._inbox = Inbox()

    # Any thread ------------------------------------------------------------------------------

    @property
    def cache_tokens(self) -> int:
        """Positions that the cache holds as a whole."""
        return self._num_blocks * BLOCK_TOKENS

    def submit(self, work: Work) -> None:
        """Accept work; the caller holds its adapter, if it has one.

        Raises:
            CapacityError: As many requests or tokens are held already as may be.
            ShuttingDownError: The engine drains.
        """
        work.sequence.arrived_s = self._clock.monotonic()
        adapter = work.sequence.adapter
        if adapter is not None:
            self._roster.hold(adapter)
        try:
            self._inbox.put(work)
        except PurveyError:
            if adapter is not None:
                self._roster.release(adapter)
            raise

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
        counts = self._floor.counts
        return EngineStats(
            running=self._floor.num_running,
            waiting=self._floor.num_waiting + len(self._inbox),
            free_blocks=self._floor.num_free_blocks,
            total_blocks=self._num_blocks,
            steps=self._num_steps,
            layers=self._runner.layers,
            preemptions=counts.preemptions,
            prefix_queried_tokens=counts.queried_tokens,
            prefix_hit_tokens=counts.hit_tokens,
            adapters=self._roster.digests,
        )

    # The loop's thread -----------------------------------------------------------------------

    def run(self) -> None:
        """Step until drained or stopped; wait while there is nothing to do."""
        while self._inbox.wait(has_work=bool(self._works)):
            self.step()
        self._take_inbox()
        for request_id in list(self._works):
            self._cancel(request_id)

    def step(self) -> bool:
        """Take the inbox and compute one batch; return whether there was anything to compute."""
        self._take_inbox()
        now_s = self._clock.monotonic()
        self._refuse_late(now_s)
        decision = plan(self._floor.state(now_s), self._budget)
        self._admit(decision)
        if not decision.chunks:
            return False
        failpoints.reach("engine.step")
        chunks = [
            (self._works[chunk.request_id].sequence, chunk.num_tokens)
            for chunk in decision.chunks
            if chunk.request_id in self._works
        ]
        if chunks:
            self._floor.make_room(chunks)
            self._compute(chunks)
        self._num_steps += 1
        return True

    def check(self) -> None:
        """Verify the invariants; called by tests after every step."""
        self._floor.check()
        assert self._works.keys() == self._floor.ids(), "a work and its sequence were parted"

    def _take_inbox(self) -> None:
        for message in self._inbox.take():
            if isinstance(message, str):
                self._cancel(message)
            else:
                self._enqueue(message)

    def _enqueue(self, work: Work) -> None:
        sequence = work.sequence
        if sequence.request_id in self._works:
            self._leave(sequence)
            work.fail(InternalError("a request with this id is running already."))
            return
        self._works[sequence.request_id] = work
        self._floor.add(sequence)

    def _refuse_late(self, now_s: float) -> None:
        for request_id in self._floor.expired(now_s):
            self._fail(
                self._works[request_id],
                DeadlineExceededError("the request's turn did not come before its deadline."),
            )

    def _admit(self, decision: StepPlan) -> None:
        for request_id in decision.preempted:
            logger.debug("engine.preempted", extra={"request_id": request_id})
            self._floor.preempt(request_id)
            self._runner.release(request_id)
        for sequence in self._floor.admit(decision.admitted):
            work = self._works[sequence.request_id]
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
                self._fail(self._works[chunks[0][0].request_id], error)
                return
            logger.warning("engine.batch_failed", extra={"count": len(chunks)})
            for chunk in chunks:
                self._compute([chunk])
            return
        for span, found in zip(batch.spans, logits, strict=True):
            self._advance(span, found)

    def _advance(self, span: Span, logits: SpanLogits) -> None:
        work = self._works[span.sequence.request_id]
        wanted = span.wanted  # before `take` appends and moves it
        self._floor.computed(span.sequence, span.num_tokens)
        try:
            reason = work.take(wanted, logits)
            self._floor.charge_output(span.sequence)
            if reason is not None:
                self._end(work, reason)
        except Exception as error:  # noqa: BLE001 (the request's fence: its neighbours go on)
            self._fail(work, error)

    def _end(self, work: Work, reason: EndReason) -> None:
        self._forget(work)
        work.end(reason)

    def _cancel(self, request_id: str) -> None:
        work = self._works.get(request_id)
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
        if self._works.pop(work.sequence.request_id, None) is not None:
            self._floor.remove(work.sequence)
            self._runner.release(work.sequence.request_id)
            self._leave(work.sequence)

    def _leave(self, sequence: Sequence) -> None:
        self._inbox.leave(sequence)
        if sequence.adapter is not None:
            self._roster.release(sequence.adapter)
