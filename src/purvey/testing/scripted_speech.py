"""What a scripted recogniser hears: the words that a recording's bytes spell.

A recording that is no text is heard as a few words of its digest. Each word lasts half a second.
"""

import hashlib
from collections.abc import Sequence

from purvey.contracts.speech.transcription import Transcribed, Word
from purvey.errors import InvalidValueError

WORD_S = 0.5
COMPUTE_S = 0.001
LOGPROB = -0.125


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


def end_of(request_id: str, words: Sequence[Word]) -> Transcribed:
    """Return the last word of a transcription."""
    return Transcribed(
        request_id=request_id, audio_s=len(words) * WORD_S, compute_s=COMPUTE_S * len(words)
    )
