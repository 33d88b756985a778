"""What a recording says: what an engine is asked, and what it answers."""

from collections.abc import Sequence
from typing import Literal

import msgspec

SpeechTask = Literal["transcribe", "translate"]
"""Write down what is said, or what it means in English."""


class SpeechSkills(msgspec.Struct, frozen=True, kw_only=True):
    """What a recogniser can do beside writing down what is said.

    Args:
        languages: Codes of those that it is told apart by; empty for a model of one language.
        takes_prompt: Whether text may be given for what was said before.
        translates: Whether it writes in English what is said in other languages.
        has_word_times: Whether it tells times of words; else of segments alone.
    """

    languages: tuple[str, ...] = ()
    takes_prompt: bool = False
    translates: bool = False
    has_word_times: bool = True


class Transcribe(msgspec.Struct, frozen=True, kw_only=True, tag="transcribe"):
    """Write down what is said. Answered by `Heard`, part by part, then `Transcribed`.

    Args:
        data: An encoded recording (WAV, FLAC, OGG, MP3).
        task: Whether it is written down as it is said or in English.
        language: Code of the language that is spoken; None leaves it to the model. A model of one
            language ignores it.
        prompt: Text to be taken for what was said before; empty for none.
        has_words: Whether words are wanted with times of their own, where that takes longer.
    """

    request_id: str
    data: bytes
    task: SpeechTask = "transcribe"
    language: str | None = None
    prompt: str = ""
    has_words: bool = False


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A word, or a character of a script without spaces; or a whole segment.

    Args:
        text: As it is written.
        start_s: Where it begins, in seconds from the beginning of the recording.
        end_s: Where it ends, likewise.
        logprob: Mean natural log-probability of its characters.
        is_apart: Whether a space stands before it; never before the first.
        segment: Of a model that divides by itself: the number of the segment that it is of, or,
            where words were not asked for, is.
    """

    text: str
    start_s: float
    end_s: float
    logprob: float
    is_apart: bool
    segment: int | None = None


class Heard(msgspec.Struct, frozen=True, kw_only=True, tag="heard"):
    """The next words of a recording, at least one."""

    request_id: str
    words: tuple[Word, ...]


class Transcribed(msgspec.Struct, frozen=True, kw_only=True, tag="transcribed"):
    """All words have been told.

    Args:
        audio_s: How long the recording is, in seconds.
        compute_s: How long the network took, in seconds.
        language: Code of the language, of a model that knows several.
    """

    request_id: str
    audio_s: float
    compute_s: float = 0.0
    language: str | None = None


TranscriptEvent = Heard | Transcribed


def text_of(words: Sequence[Word]) -> str:
    """Return words as text; of the first no space is told, whatever stood before it."""
    return "".join(
        f" {word.text}" if word.is_apart and place else word.text
        for place, word in enumerate(words)
    )
