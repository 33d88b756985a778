"""Dynamic batching for models that answer in one forward pass.

Shape letters, this file only:
    B = inputs of one batch   L = labels
"""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

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


class Submission:
    """The inputs of one caller, awaited together.

    `compute_s` is their share of the forward passes, in seconds; final when `future` is done.
    """

    def __init__(self, num_rows: int, num_labels: int) -> None:
        self.future: Future[NDArray[np.floating]] = Future()
        self.compute_s = 0.0
        self._p_BL = np.zeros((num_rows, num_labels))
        self._num_open = num_rows
        if not num_rows:
            self.future.set_result(self._p_BL)

    def settle(self, row: int, p_L: NDArray[np.floating], *, compute_s: float) -> None:
        """Note one row; the last one resolves the future."""
        self._p_BL[row] = p_L
        self.compute_s += compute_s
        self._num_open -= 1
        if not self._num_open and self.future.set_running_or_notify_cancel():
            self.future.set_result(self._p_BL)

    def fail(self, error: PurveyError) -> None:
        """End in an error; harmless when it has ended."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


@dataclass(frozen=True, kw_only=True)
class _Item:
    """One prepared input, and where its probabilities go."""

    prepared: Prepared
    submission: Submission
    row: int


class Batcher:
    """Runs what has gathered, many inputs at a time, in a thread of its own.

    The first input of a batch waits at most `window_s` for company. Errors of one input never
    reach another: a broken input is refused when it is submitted, and a batch that fails is
    repeated one by one. A row's probabilities are those of the same network in every batch,
    up to rounding: kernels for one and for many rows sum in other orders (about 1e-6).

    Args:
        model: The classifier.
        window_s: Longest wait for more inputs, in seconds; 0 takes what is there.
        max_batch: Inputs of one forward pass at most.
        clock: Measures the forward passes.
    """

    def __init__(
        self,
        model: Classifier,
        *,
        window_s: float = 0.002,
        max_batch: int = 64,
        clock: Clock | None = None,
    ) -> None:
        self._model, self._clock = model, clock or SystemClock()
        self._window_s, self._max_batch = window_s, max_batch
        self._queue: deque[_Item] = deque()
        self._news = threading.Condition()
        self._is_draining = False
        self._num_running = self._num_steps = 0

    def submit(self, inputs: Sequence[NamedInputs]) -> Future[NDArray[np.floating]]:
        """Return probabilities `p_BL`, in label order, one row per input, when known.

        A row is softmax(logits / temperature) in float64, with the manifest's temperature.

        Args:
            inputs: Made by this process: their images are decoded here.

        Raises:
            PurveyError: An input is refused; none of them was submitted.
            CapacityError: Too many inputs wait.
            ShuttingDownError: The engine drains.
        """
        return self._enqueue([self._model.prepare(one, decoder=_HERE) for one in inputs]).future

    def enqueue(self, inputs: Sequence[NamedInputs]) -> Submission:
        """As `submit`, for the inputs of a request; also tell how long the computing took."""
        return self._enqueue(self._model.prepare_all(inputs))

    def drain(self) -> None:
        """Accept nothing more; `run` returns when all that was accepted is answered."""
        with self._news:
            self._is_draining = True
            self._news.notify()

    def stop(self) -> None:
        """Accept nothing more and cancel what waits; `run` returns after the batch at hand."""
        with self._news:
            self._is_draining = True
            for item in self._queue:
                item.submission.future.cancel()
            self._queue.clear()
            self._news.notify()

    def stats(self) -> EngineStats:
        """Count what is held; a one-pass model has no blocks."""
        return EngineStats(
            running=self._num_running,
            waiting=len(self._queue),
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

    def _enqueue(self, prepared: list[Prepared]) -> Submission:
        submission = Submission(len(prepared), len(self._model.labels))
        items = [
            _Item(prepared=one, submission=submission, row=row) for row, one in enumerate(prepared)
        ]
        with self._news:
            if self._is_draining:
                raise ShuttingDownError("the engine is shutting down.")
            if len(self._queue) + len(items) > MAX_QUEUED_INPUTS:
                raise CapacityError(f"{len(self._queue)} inputs are waiting already.")
            self._queue.extend(items)
            self._news.notify()
        return submission

    def _gather(self) -> list[_Item]:
        with self._news:
            self._news.wait_for(lambda: self._queue or self._is_draining)
            if len(self._queue) < self._max_batch and not self._is_draining and self._window_s:
                self._news.wait_for(self._is_full, timeout=self._window_s)
            size = min(len(self._queue), self._max_batch)
            return [self._queue.popleft() for _ in range(size)]

    def _is_full(self) -> bool:
        return len(self._queue) >= self._max_batch or self._is_draining

    def _answer(self, batch: list[_Item]) -> None:
        wanted = [item for item in batch if not item.submission.future.done()]
        if not wanted:
            return
        failpoints.reach("engine.step")
        started = self._clock.monotonic()
        try:
            p_BL = self._probabilities([item.prepared for item in wanted])
        except Exception as error:  # noqa: BLE001 (the request's fence: its neighbours go on)
            if len(wanted) == 1:
                wanted[0].submission.fail(_named(error))
                return
            for item in wanted:
                self._answer([item])
            return
        share_s = (self._clock.monotonic() - started) / len(wanted)
        for item, p_L in zip(wanted, p_BL, strict=True):
            item.submission.settle(item.row, p_L, compute_s=share_s)

    @torch.inference_mode()
    def _probabilities(self, prepared: list[Prepared]) -> NDArray[np.floating]:
        logits_BL = self._model.logits(self._model.collate(prepared))
        if not torch.isfinite(logits_BL).all():
            raise InternalError("the model's logits are not finite.")
        p_BL: NDArray[np.floating] = (
            (logits_BL.double() / self._model.manifest.temperature).softmax(-1).numpy()
        )
        return p_BL


def _named(error: Exception) -> PurveyError:
    if isinstance(error, PurveyError):
        return error
    logger.error("engine.batch_failed", exc_info=error)
    BROAD_CATCHES.labels(where="batcher").inc()
    return InternalError("the model failed on this input.")
