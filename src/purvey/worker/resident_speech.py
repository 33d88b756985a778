"""A speech recogniser in an engine process: recordings to words, part by part."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from torch import Tensor

from purvey.contracts.engine import ModelLoaded, Question
from purvey.contracts.speech.transcription import Heard, Transcribe, Transcribed, Word
from purvey.engine.batcher import Batcher
from purvey.errors import MethodUnsupportedError
from purvey.models.inputs.audio import SoundReader
from purvey.models.speech.decoding import Logprobs
from purvey.models.speech.listening import Listener
from purvey.models.speech.recogniser import SpeechModel
from purvey.models.speech.windows import Window
from purvey.worker.batched import BatchedResident
from purvey.worker.resident import CheckCancelled, Send

_BYTES_PER_FLOAT = 4


class ResidentSpeech(BatchedResident[Logprobs]):
    """A recogniser with its queue of windows.

    Whoever asks waits in `answer` for one window after the other, so that of a long recording no
    more is held than a piece; recordings take turns, window by window. Each window is computed
    alone: what it is heard as does not depend on its neighbours, to the last bit.

    Args:
        model: The recogniser.
    """

    def __init__(self, model: SpeechModel) -> None:
        self._model = model
        self._batcher = Batcher(self._computed, window_s=0.0, max_batch=1)
        loaded = ModelLoaded(
            task=model.manifest.task,
            inputs=model.manifest.inputs,
            num_parameters=model.num_parameters,
            resident_bytes=model.num_parameters * _BYTES_PER_FLOAT,
        )
        super().__init__(self._batcher, loaded)

    def answer(self, question: Question, send: Send, check: CheckCancelled) -> None:
        """Hear a recording to its end, and tell its words as they become certain."""
        if not isinstance(question, Transcribe):
            raise MethodUnsupportedError(
                "this model writes down recordings and does nothing else.", param="model"
            )
        recording = _Recording(question.data, sample_rate_hz=self._model.spec.sample_rate_hz)
        listener, compute_s = Listener(self._model), 0.0
        for window in self._model.windows(recording.read):
            check()
            submission = self._batcher.put([window])
            with self._cancellable(question.request_id, submission.future):
                (logp_TV,) = submission.future.result()
            compute_s += submission.compute_s
            _tell(question, listener.hear(logp_TV), send)
        _tell(question, listener.finish(), send)
        end = Transcribed(
            request_id=question.request_id, audio_s=recording.audio_s, compute_s=compute_s
        )
        send(end)

    def _computed(self, windows: list[Window]) -> list[Logprobs]:
        return [self._model.log_probabilities(window) for window in windows]

    @contextmanager
    def _cancellable(self, request_id: str, future: Future[list[Logprobs]]) -> Iterator[None]:
        """Let `cancel` find what the request waits for."""
        with self._lock:
            self._futures[request_id] = future
        try:
            yield
        finally:
            with self._lock:
                self._futures.pop(request_id, None)


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


def _tell(question: Transcribe, words: list[Word], send: Send) -> None:
    if words:
        send(Heard(request_id=question.request_id, words=tuple(words)))
