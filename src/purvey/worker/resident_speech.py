"""A speech recogniser in an engine process: recordings to words, part by part."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

from purvey.contracts.engine import ModelLoaded, Question
from purvey.contracts.speech.transcription import Heard, Transcribe, Transcribed, Word
from purvey.engine.batcher import Batcher
from purvey.errors import MethodUnsupportedError
from purvey.models.inputs.audio import SoundReader
from purvey.models.speech.asked import Asked
from purvey.models.speech.listening import Recogniser, hear
from purvey.worker.batched import BatchedResident
from purvey.worker.resident import CheckCancelled, Send

_BYTES_PER_FLOAT = 4
T = TypeVar("T")
Job = Callable[[], None]
"""A window's computation; it keeps what it finds."""


class ResidentSpeech(BatchedResident[None]):
    """A recogniser with its queue of windows.

    Whoever asks waits in `answer` for one window after the other, so that of a long recording no
    more is held than a piece; recordings take turns, window by window. Each window is computed
    alone: what it is heard as does not depend on its neighbours, to the last bit.

    Args:
        model: The recogniser.
    """

    def __init__(self, model: Recogniser) -> None:
        self._model = model
        self._batcher: Batcher[Job, None] = Batcher(_run, window_s=0.0, max_batch=1)
        loaded = ModelLoaded(
            task=model.manifest.task,
            inputs=model.manifest.inputs,
            num_parameters=model.num_parameters,
            resident_bytes=model.num_parameters * _BYTES_PER_FLOAT,
            speech=model.skills,
        )
        super().__init__(self._batcher, loaded)

    def answer(self, question: Question, send: Send, check: CheckCancelled) -> None:
        """Hear a recording to its end, and tell its words as they become certain."""
        if not isinstance(question, Transcribe):
            raise MethodUnsupportedError(
                "this model writes down recordings and does nothing else.", param="model"
            )
        recording = _Recording(question.data, sample_rate_hz=self._model.spec.sample_rate_hz)
        turn = _Turn(self, question.request_id, check)
        language: str | None = None
        parts = hear(self._model, recording.read, asked=_asked(question), compute=turn.compute)
        for part in parts:
            language = part.language
            _tell(question, part.words, send)
        end = Transcribed(
            request_id=question.request_id,
            audio_s=recording.audio_s,
            compute_s=turn.compute_s,
            language=language,
        )
        send(end)

    def compute(self, request_id: str, job: Job) -> float:
        """Run a window's job when its turn comes; return how long it took, in seconds."""
        submission = self._batcher.put([job])
        with self._cancellable(request_id, submission.future):
            submission.future.result()
        return submission.compute_s

    @contextmanager
    def _cancellable(self, request_id: str, future: Future[list[None]]) -> Iterator[None]:
        """Let `cancel` find what the request waits for."""
        with self._lock:
            self._futures[request_id] = future
        try:
            yield
        finally:
            with self._lock:
                self._futures.pop(request_id, None)


class _Turn:
    """What one request computes, window by window; `compute_s` is how long that took so far."""

    def __init__(self, resident: ResidentSpeech, request_id: str, check: CheckCancelled) -> None:
        self._resident, self._request_id, self._check = resident, request_id, check
        self.compute_s = 0.0

    def compute(self, job: Callable[[], T], /) -> T:
        """Return what a job returns, once it was its turn."""
        self._check()
        found: list[T] = []
        self.compute_s += self._resident.compute(self._request_id, lambda: found.append(job()))
        return found[0]


class _Recording:
    """An encoded recording that is decoded part by part; `audio_s` is how far it was read."""

    def __init__(self, data: bytes, *, sample_rate_hz: int) -> None:
        self._data, self._sample_rate_hz, self._reader = data, sample_rate_hz, SoundReader()
        self.audio_s = 0.0

    def read(self, start_s: float, max_s: float) -> Tensor:
        """Return `samples_N` of a part; empty past the end."""
        samples_N = self._reader.waveform(
            self._data,
            sample_rate_hz=self._sample_rate_hz,
            max_s=max_s,
            start_s=start_s,
            param="file",
        )
        self.audio_s = max(self.audio_s, start_s + len(samples_N) / self._sample_rate_hz)
        return samples_N


def _run(jobs: list[Job]) -> list[None]:
    for job in jobs:
        job()
    return [None for _ in jobs]


def _asked(question: Transcribe) -> Asked:
    return Asked(
        task=question.task,
        language=question.language,
        prompt=question.prompt,
        has_words=question.has_words,
    )


def _tell(question: Transcribe, words: list[Word], send: Send) -> None:
    if words:
        send(Heard(request_id=question.request_id, words=tuple(words)))
