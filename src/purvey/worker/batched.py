"""What every model behind a batcher has: futures by request, and one thread that computes."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from purvey.contracts.engine import EngineStats, ModelLoaded, OneAnswer
from purvey.engine.batcher import Batcher, Submission
from purvey.errors import PurveyError
from purvey.worker.resident import Send, refusal

R = TypeVar("R")
"""What is computed of one input."""


class BatchedResident(Generic[R]):
    """The part of `Resident` that does not depend on what is asked.

    Args:
        batcher: Computes; its thread is that of `run`.
        loaded: What was loaded.
    """

    def __init__(self, batcher: Batcher[Any, R], loaded: ModelLoaded) -> None:
        self._batched, self._loaded = batcher, loaded
        self._futures: dict[str, Future[list[R]]] = {}
        self._lock = threading.Lock()

    @property
    def loaded(self) -> ModelLoaded:
        """What was loaded."""
        return self._loaded

    def cancel(self, request_id: str) -> None:
        """Forget a request; the batch at hand is finished without it."""
        with self._lock:
            future = self._futures.get(request_id)
        if future is not None:
            future.cancel()

    def run(self) -> None:
        """Compute until drained or stopped."""
        self._batched.run()

    def drain(self) -> None:
        """Accept nothing more and finish what was accepted."""
        self._batched.drain()

    def stop(self) -> None:
        """Accept nothing more and cancel what was accepted."""
        self._batched.stop()

    def stats(self) -> EngineStats:
        """Count what is held."""
        return self._batched.stats()

    def _answer_when_done(
        self,
        request_id: str,
        submission: Submission[R],
        answer: Callable[[list[R], float], OneAnswer],
        send: Send,
    ) -> None:
        """Send `answer(results, compute_s)`, or the refusal, unless the request is cancelled."""
        with self._lock:
            self._futures[request_id] = submission.future

        def tell(done: Future[list[R]]) -> None:
            with self._lock:
                self._futures.pop(request_id, None)
            if done.cancelled():
                return
            if isinstance(error := done.exception(), PurveyError):
                send(refusal(request_id, error))
                return
            send(answer(done.result(), submission.compute_s))

        submission.future.add_done_callback(tell)
