"""A classifier in an engine process: class probabilities or scores, and explanations."""

from collections.abc import Sequence
from concurrent.futures import Future

from purvey.contracts.adapter import DropAdapter, LoadAdapter
from purvey.contracts.embedding import Embed, Rank
from purvey.contracts.engine import (
    Classified,
    Classify,
    Explain,
    Explained,
    Generate,
    ModelLoaded,
    NamedInputs,
    Question,
    Score,
    Tokenize,
)
from purvey.contracts.speech.transcription import Transcribe
from purvey.engine.batcher import ClassifierBatcher, Row
from purvey.errors import MethodUnsupportedError
from purvey.models.classifier import Classifier
from purvey.worker.batched import BatchedResident
from purvey.worker.explaining import explain_classifier
from purvey.worker.resident import CheckCancelled, Send

_BYTES_PER_FLOAT = 4
Answers = list[Row]


class ResidentClassifier(BatchedResident[Row]):
    """A classifier with its batcher.

    Args:
        model: The classifier.
        window_s: How long the first input of a batch waits for more, in seconds.
    """

    def __init__(self, model: Classifier, *, window_s: float = 0.002) -> None:
        self._model, self._batcher = model, ClassifierBatcher(model, window_s=window_s)
        manifest = model.manifest
        self._is_regression = manifest.task == "regression"
        loaded = ModelLoaded(
            task=manifest.task,
            labels=manifest.labels,
            inputs=manifest.inputs,
            num_parameters=model.num_parameters,
            resident_bytes=model.num_parameters * _BYTES_PER_FLOAT,
            is_calibrated=manifest.is_calibrated,
        )
        super().__init__(self._batcher, loaded)

    def answer(self, question: Question, send: Send, check: CheckCancelled) -> None:
        """Answer at once, or hand the question to the batcher."""
        match question:
            case Classify():
                self._classify(question, send)
            case Explain():
                send(self._explained(question, check))
            case LoadAdapter() | DropAdapter():
                raise MethodUnsupportedError("this model takes no adapters.", param="model")
            case Generate() | Score() | Embed() | Rank() | Tokenize() | Transcribe():
                raise MethodUnsupportedError(
                    "this model classifies; it does not generate text or give vectors.",
                    param="model",
                )

    def _classify(self, question: Classify, send: Send) -> None:
        def classified(rows: Answers, compute_s: float) -> Classified:
            answers = tuple(tuple(row.tolist()) for row in rows)
            return Classified(
                request_id=question.request_id,
                probabilities=() if self._is_regression else answers,
                scores=tuple(score for (score,) in answers) if self._is_regression else (),
                compute_s=compute_s,
            )

        submission = self._batcher.enqueue(question.inputs)
        self._answer_when_done(question.request_id, submission, classified, send)

    def _explained(self, question: Explain, check: CheckCancelled) -> Explained:
        def classify(inputs: Sequence[NamedInputs]) -> Future[Answers]:
            check()
            return self._batcher.submit(inputs)

        result = explain_classifier(
            question.request, classify=classify, manifest=self._model.manifest
        )
        return Explained(request_id=question.request_id, result=result)
