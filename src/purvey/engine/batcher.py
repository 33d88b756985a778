"""Dynamic batching for models that answer in one forward pass.

Shape letters, this file only:
    B = inputs of one batch   L = labels
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from purvey import failpoints
from purvey.contracts.clock import Clock, SystemClock
from purvey.contracts.engine import EngineStats, NamedInputs
from purvey.contracts.limits import LIMITS
from purvey.errors import CapacityError, InternalError, PurveyError, ShuttingDownError
from purvey.models.classifier import Classifier, Prepared
from purvey.parse.parser import DecoderHere
from purvey.telemetry.metrics import BROAD_CATCHES

logger = logging.getLogger(__name__)
MAX_QUEUED_INPUTS = LIMITS.queued_requests * 16
_HERE = DecoderHere()


P = TypeVar("P")
"""A prepared input."""
R = TypeVar("R")
"""What is computed of one input."""
Row = NDArray[np.floating]


class Submission(Generic[R]):
    """The inputs of one caller, awaited together.

    `compute_s` is their share of the forward passes, in seconds; final when `future` is done.
    """

    def __init__(self, num_rows: int) -> None:
        self.future: Future[list[R]] = Future()
        self.compute_s = 0.0
        self._rows: dict[int, R] = {}
        self._num_rows = num_rows
        if not num_rows:
            self.future.set_result([])

    def settle(self, row: int, result: R, *, compute_s: float) -> None:
        """Note one row; the last one resolves the future."""
        self._rows[row] = result
        self.compute_s += compute_s
        is_last = len(self._rows) == self._num_rows
        if is_last and self.future.set_running_or_notify_cancel():
            self.future.set_result([self._rows[number] for number in range(self._num_rows)])

    def fail(self, error: PurveyError) -> None:
        """End in an error; harmless when it has ended."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


@dataclass(frozen=True, kw_only=True)
class _Item(Generic[P, R]):
    """One prepared input, and where its result goes."""

    prepared: P
    submission: Submission[R]
    row: int
    cost: int


class Batcher(Generic[P, R]):
    """Runs what has gathered, many inputs at a time, in a thread of its own.

    The first input of a batch waits at most `window_s` for company. Errors of one input never
    reach another: a batch that fails is repeated one by one. Callers take turns, input by input:
    one with many of them holds up nobody for longer than a batch.

    Args:
        compute: Runs the model on prepared inputs and returns a result for each.
        window_s: Longest wait for more inputs, in seconds; 0 takes what is there.
        max_batch: Inputs of one forward pass at most.
        max_cost: What the inputs of one forward pass may cost together; one alone may cost more.
        cost: What an input costs, tokens for example.
        clock: Measures the forward passes.
    """

    def __init__(
        self,
        compute: Callable[[list[P]], Sequence[R]],
        *,
        window_s: float = 0.002,
        max_batch: int = 64,
        max_cost: int | None = None,
        cost: Callable[[P], int] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._compute, self._clock = compute, clock or SystemClock()
        self._window_s, self._max_batch = window_s, max_batch
        self._max_cost, self._cost = max_cost, cost
        self._lines: deque[deque[_Item[P, R]]] = deque()  # one per caller, none empty
        self._num_waiting = 0
        self._news = threading.Condition()
        self._is_draining = False
        self._num_running = self._num_steps = 0

    def put(self, prepared: Sequence[P]) -> Submission[R]:
        """Queue the inputs of one caller.

        Raises:
            CapacityError: Too many inputs wait; none of them was queued.
            ShuttingDownError: The engine drains.
        """
        submission: Submission[R] = Submission(len(prepared))
        items = deque(
            _Item(prepared=one, submission=submission, row=row, cost=self._cost_of(one))
            for row, one in enumerate(prepared)
        )
        with self._news:
            if self._is_draining:
                raise ShuttingDownError("the engine is shutting down.")
            if self._num_waiting + len(items) > MAX_QUEUED_INPUTS:
                raise CapacityError(f"{self._num_waiting} inputs are waiting already.")
            if items:
                self._lines.append(items)
                self._num_waiting += len(items)
                self._news.notify()
        return submission

    def drain(self) -> None:
        """Accept nothing more; `run` returns when all that was accepted is answered."""
        with self._news:
            self._is_draining = True
            self._news.notify()

    def stop(self) -> None:
        """Accept nothing more and cancel what waits; `run` returns after the batch at hand."""
        with self._news:
            self._is_draining = True
            for line in self._lines:
                line[0].submission.future.cancel()
            self._lines.clear()
            self._num_waiting = 0
            self._news.notify()

    def stats(self) -> EngineStats:
        """Count what is held; a one-pass model has no blocks."""
        return EngineStats(
            running=self._num_running,
            waiting=self._num_waiting,
            free_blocks=0,
            total_blocks=0,
            steps=self._num_steps,
        )

    def run(self) -> None:
        """Answer until drained; the only thread that runs the model."""
        while batch := self._gather():
            self._num_running = len(batch)
            self._answer(batch)
            self._num_running = 0
            self._num_steps += 1

    def _cost_of(self, prepared: P) -> int:
        return 1 if self._cost is None else self._cost(prepared)

    def _gather(self) -> list[_Item[P, R]]:
        with self._news:
            self._news.wait_for(lambda: self._lines or self._is_draining)
            if not self._is_full() and self._window_s:
                self._news.wait_for(self._is_full, timeout=self._window_s)
            batch: list[_Item[P, R]] = []
            left = self._max_cost
            while self._lines and len(batch) < self._max_batch:
                if left is not None and batch and self._lines[0][0].cost > left:
                    break
                batch.append(self._take())
                left = None if left is None else left - batch[-1].cost
            return batch

    def _take(self) -> _Item[P, R]:
        """Take an input of the caller whose turn it is, who then stands behind the others."""
        line = self._lines.popleft()
        item = line.popleft()
        self._num_waiting -= 1
        if line:
            self._lines.append(line)
        return item

    def _is_full(self) -> bool:
        return self._num_waiting >= self._max_batch or self._is_draining

    def _answer(self, batch: list[_Item[P, R]]) -> None:
        wanted = [item for item in batch if not item.submission.future.done()]
        if not wanted:
            return
        failpoints.reach("engine.step")
        started = self._clock.monotonic()
        try:
            results = self._compute([item.prepared for item in wanted])
        except Exception as error:  # noqa: BLE001 (the request's fence: its neighbours go on)
            if len(wanted) == 1:
                wanted[0].submission.fail(_named(error))
                return
            for item in wanted:
                self._answer([item])
            return
        share_s = (self._clock.monotonic() - started) / len(wanted)
        for item, result in zip(wanted, results, strict=True):
            item.submission.settle(item.row, result, compute_s=share_s)


class ClassifierBatcher(Batcher[Prepared, Row]):
    """Class probabilities, or a regression's scores, in batches.

    A broken input is refused when it is submitted. A row's answer is that of the same
    network in every batch, up to rounding: kernels for one and for many rows sum in other orders
    (about 1e-6).

    Args:
        model: The classifier.
        window_s: As in `Batcher`.
        max_batch: As in `Batcher`.
    """

    def __init__(self, model: Classifier, *, window_s: float = 0.002, max_batch: int = 64) -> None:
        super().__init__(self._computed, window_s=window_s, max_batch=max_batch)
        self._model = model

    def submit(self, inputs: Sequence[NamedInputs]) -> Future[list[Row]]:
        """Return probabilities `p_L`, in label order, of each input, when known; or `y_1`, a score.

        They are what `Classifier.answers` makes of the logits, in float64.

        Args:
            inputs: Made by this process: their images are decoded here.

        Raises:
            PurveyError: An input is refused; none of them was submitted.
            CapacityError: Too many inputs wait.
            ShuttingDownError: The engine drains.
        """
        return self.put([self._model.prepare(one, decoder=_HERE) for one in inputs]).future

    def enqueue(self, inputs: Sequence[NamedInputs]) -> Submission[Row]:
        """As `submit`, for the inputs of a request; also tell how long the computing took."""
        return self.put(self._model.prepare_all(inputs))

    @torch.inference_mode()
    def _computed(self, prepared: list[Prepared]) -> list[Row]:
        logits_BL = self._model.logits(self._model.collate(prepared))
        if not torch.isfinite(logits_BL).all():
            raise InternalError("the model's logits are not finite.")
        answers: Row = self._model.answers(logits_BL).numpy()
        return list(answers)


def _named(error: Exception) -> PurveyError:
    if isinstance(error, PurveyError):
        return error
    logger.error("engine.batch_failed", exc_info=error)
    BROAD_CATCHES.labels(where="batcher").inc()
    return InternalError("the model failed on this input.")
