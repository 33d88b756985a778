"""What a recording says: what an engine is asked, and what it answers."""

from collections.abc import Sequence

import msgspec


class Transcribe(msgspec.Struct, frozen=True, kw_only=True, tag="transcribe"):
    """Write down what is said. Answered by `Heard`, part by part, then `Transcribed`.

    Args:
        data: An encoded recording (WAV, FLAC, OGG, MP3).
    """

    request_id: str
    data: bytes


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A word, or a character of a script without spaces.

    Args:
        text: As it is written.
        start_s: Where it begins, in seconds from the beginning of the recording.
        end_s: Where it ends, likewise.
        logprob: Mean natural log-probability of its characters.
        is_apart: Whether a space stands before it; never before the first.
    """

    text: str
    start_s: float
    end_s: float
    logprob: float
    is_apart: bool


class Heard(msgspec.Struct, frozen=True, kw_only=True, tag="heard"):
    """The next words of a recording, at least one."""

    request_id: str
    words: tuple[Word, ...]


class Transcribed(msgspec.Struct, frozen=True, kw_only=True, tag="transcribed"):
    """All words have been told.

    Args:
        audio_s: How long the recording is, in seconds.
        compute_s: How long the network took, in seconds.
    """

    request_id: str
    audio_s: float
    compute_s: float = 0.0


TranscriptEvent = Heard | Transcribed


def text_of(words: Sequence[Word]) -> str:
    """Return words as text; of the first no space is told, whatever stood before it."""
    return "".join(
        f" {word.text}" if word.is_apart and place else word.text
        for place, word in enumerate(words)
    )
