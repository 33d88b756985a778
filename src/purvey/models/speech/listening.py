"""From a recording to its words, window by window."""

from purvey.contracts.speech.transcription import Word
from purvey.models.speech.decoding import Logprobs, PrefixBeam
from purvey.models.speech.recogniser import SpeechModel
from purvey.models.speech.windows import Read
from purvey.models.speech.words import WordBuilder


class Listener:
    """One recording being heard; holds little more than the words that are not certain yet.

    Args:
        model: What hears.
    """

    def __init__(self, model: SpeechModel) -> None:
        self._beam = PrefixBeam()
        self._builder = WordBuilder(model.vocabulary, step_s=model.step_s)

    def hear(self, logp_TV: Logprobs) -> list[Word]:
        """Take the steps of the next window; return the words that are certain and whole by now."""
        return self._builder.add(self._beam.feed(logp_TV))

    def finish(self) -> list[Word]:
        """Return the words that are left."""
        return [*self._builder.add(self._beam.finish()), *self._builder.finish()]


def transcribe(model: SpeechModel, read: Read) -> list[Word]:
    """Hear a whole recording.

    Raises:
        InvalidValueError: It cannot be decoded, or is empty.
    """
    listener = Listener(model)
    words: list[Word] = []
    for window in model.windows(read):
        words += listener.hear(model.log_probabilities(window))
    return [*words, *listener.finish()]
