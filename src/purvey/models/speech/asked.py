"""What may be asked of a recogniser about a recording, and what it tells as it hears."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from purvey.contracts.speech.transcription import SpeechTask, Word

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is wanted of a recording.

    Args:
        task: Written down as it is said, or in English.
        language: Code of the language that is spoken; None leaves it to the model.
        prompt: Text to be taken for what was said before; empty for none.
        has_words: Whether words are wanted with times of their own, where that takes longer.
    """

    task: SpeechTask = "transcribe"
    language: str | None = None
    prompt: str = ""
    has_words: bool = False


@dataclass(frozen=True, kw_only=True)
class HeardPart:
    """What is certain since the last part.

    Args:
        words: May be none.
        language: Code of the language, of a model that knows several.
    """

    words: list[Word]
    language: str | None = None


class Compute(Protocol):
    """Runs what takes long, here or where a model's turn is awaited."""

    def __call__(self, job: Callable[[], T], /) -> T:
        """Return what the job returns."""
        ...


def compute_here(job: Callable[[], T], /) -> T:
    """Run a job at once."""
    return job()
