"""From a recording to its words, window by window, whichever kind of recogniser hears it."""

from collections.abc import Iterator
from functools import partial

from purvey.contracts.speech.transcription import Word
from purvey.models.speech.asked import Asked, Compute, HeardPart, compute_here
from purvey.models.speech.decoding import PrefixBeam
from purvey.models.speech.recogniser import SpeechModel
from purvey.models.speech.whisper.listening import hear_windows
from purvey.models.speech.whisper.model import WhisperModel
from purvey.models.speech.windows import Read
from purvey.models.speech.words import WordBuilder

Recogniser = SpeechModel | WhisperModel
_AS_IT_IS = Asked()


def hear(
    model: Recogniser, read: Read, *, asked: Asked = _AS_IT_IS, compute: Compute = compute_here
) -> Iterator[HeardPart]:
    """Yield what a recording says as it becomes certain.

    Args:
        model: What hears.
        read: Decodes a part of the recording.
        asked: What is wanted of it, within the model's `skills`.
        compute: Runs what takes long.

    Raises:
        InvalidValueError: It cannot be decoded, or is empty.
    """
    if isinstance(model, WhisperModel):
        return hear_windows(model, read, asked, compute)
    return _hear_by_ctc(model, read, compute)


def transcribe(model: Recogniser, read: Read) -> list[Word]:
    """Hear a whole recording.

    Raises:
        InvalidValueError: It cannot be decoded, or is empty.
    """
    return [word for part in hear(model, read) for word in part.words]


def _hear_by_ctc(model: SpeechModel, read: Read, compute: Compute) -> Iterator[HeardPart]:
    """Hold little more than the words that are not certain yet."""
    beam = PrefixBeam()
    builder = WordBuilder(model.vocabulary, step_s=model.step_s)
    for window in model.windows(read):
        logp_TV = compute(partial(model.log_probabilities, window))
        yield HeardPart(words=builder.add(beam.feed(logp_TV)))
    yield HeardPart(words=[*builder.add(beam.finish()), *builder.finish()])
