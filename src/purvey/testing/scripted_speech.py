"""What a scripted recogniser hears: the words that a recording's bytes spell.

A recording that is no text is heard as a few words of its digest. Each word lasts half a second.
One of the Whisper family tells times of segments, of two words each.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from purvey.contracts.speech.transcription import (
    SpeechSkills,
    Transcribe,
    Transcribed,
    Word,
    text_of,
)
from purvey.errors import InvalidValueError

WORD_S = 0.5
COMPUTE_S = 0.001
LOGPROB = -0.125
LANGUAGE = "de"
SKILLS = SpeechSkills(
    languages=(LANGUAGE, "en"), takes_prompt=True, translates=True, has_word_times=False
)
"""Of one of the Whisper family."""


def words_of(data: bytes) -> list[Word]:
    """Return the words of a recording.

    Raises:
        InvalidValueError: It is empty.
    """
    if not data:
        raise InvalidValueError("the recording is empty.", param="file")
    try:
        texts = data.decode("utf-8").split()
    except UnicodeDecodeError:
        digest = hashlib.sha256(data).hexdigest()
        texts = [digest[start : start + 4] for start in range(0, 12, 4)]
    return [
        Word(
            text=text,
            start_s=place * WORD_S,
            end_s=(place + 1) * WORD_S,
            logprob=LOGPROB,
            is_apart=place > 0,
        )
        for place, text in enumerate(texts)
    ]


def segments_of(words: Sequence[Word]) -> list[Word]:
    """Return words two by two, each pair as one that is told as a whole."""
    pairs = [words[start : start + 2] for start in range(0, len(words), 2)]
    return [
        msgspec.structs.replace(pair[0], text=text_of(pair), end_s=pair[-1].end_s, segment=number)
        for number, pair in enumerate(pairs)
    ]


def end_of(request: Transcribe, words: Sequence[Word], *, skills: SpeechSkills) -> Transcribed:
    """Return the last word of a transcription."""
    return Transcribed(
        request_id=request.request_id,
        audio_s=len(words) * WORD_S,
        compute_s=COMPUTE_S * len(words),
        language=(request.language or LANGUAGE) if skills.languages else None,
    )
