"""A classifier in an engine process: class probabilities and explanations."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from purvey.contracts.embedding import Embed, Rank
from purvey.contracts.engine import (
    Classified,
    Classify,
    EngineStats,
    Explain,
    Explained,
    Generate,
    ModelLoaded,
    NamedInputs,
    Score,
    Tokenize,
)
from purvey.engine.batcher import ClassifierBatcher, Row
from purvey.errors import MethodUnsupportedError, PurveyError
from purvey.models.classifier import Classifier
from purvey.worker.explaining import explain_classifier
from purvey.worker.resident import CheckCancelled, Question, Send, refusal

_BYTES_PER_FLOAT = 4
Probabilities = list[Row]


class ResidentClassifier:
    """A classifier with its batcher.

    Args:
        model: The classifier.
        window_s: How long the first input of a batch waits for more, in seconds.
    """

    def __init__(self, model: Classifier, *, window_s: float = 0.002) -> None:
        self._model, self._batcher = model, ClassifierBatcher(model, window_s=window_s)
        self._futures: dict[str, Future[Probabilities]] = {}
        self._lock = threading.Lock()
        manifest = model.manifest
        self._loaded = ModelLoaded(
            task=manifest.task,
            labels=manifest.labels,
            inputs=manifest.inputs,
            num_parameters=model.num_parameters,
            resident_bytes=model.num_parameters * _BYTES_PER_FLOAT,
            is_calibrated=manifest.is_calibrated,
        )

    @property
    def loaded(self) -> ModelLoaded:
        """What was loaded."""
        return self._loaded

    def answer(self, question: Question, send: Send, check: CheckCancelled) -> None:
        """Answer at once, or hand the question to the batcher."""
        match question:
            case Classify():
                self._classify(question, send)
            case Explain():
                send(self._explained(question, check))
            case Generate() | Score() | Embed() | Rank() | Tokenize():
                raise MethodUnsupportedError(
                    "this model classifies; it does not generate text or give vectors.",
                    param="model",
                )

    def cancel(self, request_id: str) -> None:
        """Forget a request; the batch at hand is finished without it."""
        with self._lock:
            future = self._futures.get(request_id)
        if future is not None:
            future.cancel()

    def run(self) -> None:
        """Compute until drained or stopped."""
        self._batcher.run()

    def drain(self) -> None:
        """Accept nothing more and finish what was accepted."""
        self._batcher.drain()

    def stop(self) -> None:
        """Accept nothing more and cancel what was accepted."""
        self._batcher.stop()

    def stats(self) -> EngineStats:
        """Count what is held."""
        return self._batcher.stats()

    def _classify(self, question: Classify, send: Send) -> None:
        request_id = question.request_id
        submission = self._batcher.enqueue(question.inputs)
        with self._lock:
            self._futures[request_id] = submission.future

        def tell(done: Future[Probabilities]) -> None:
            with self._lock:
                self._futures.pop(request_id, None)
            if done.cancelled():
                return
            if isinstance(error := done.exception(), PurveyError):
                send(refusal(request_id, error))
                return
            send(
                Classified(
                    request_id=request_id,
                    probabilities=tuple(tuple(row.tolist()) for row in done.result()),
                    compute_s=submission.compute_s,
                )
            )

        submission.future.add_done_callback(tell)

    def _explained(self, question: Explain, check: CheckCancelled) -> Explained:
        def classify(inputs: Sequence[NamedInputs]) -> Future[Probabilities]:
            check()
            return self._batcher.submit(inputs)

        result = explain_classifier(
            question.request, classify=classify, manifest=self._model.manifest
        )
        return Explained(request_id=question.request_id, result=result)
