"""Words to segments as long as a subtitle, and segments to subtitles."""

import html
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from purvey.contracts.speech.transcription import Word, text_of

_PAUSE_S = 1.0
"""A silence of that length ends a segment,"""
_LONGEST_S = 7.0
"""and so does a word that would end later than this after its beginning,"""
_LONGEST_CHARS = 84
"""or make it longer: two lines of a subtitle."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Words that are shown together."""

    words: tuple[Word, ...]

    @property
    def start_s(self) -> float:
        """When it begins."""
        return self.words[0].start_s

    @property
    def end_s(self) -> float:
        """When it ends."""
        return self.words[-1].end_s

    @property
    def text(self) -> str:
        """What is said in it."""
        return text_of(self.words)


def segments_of(words: Sequence[Word]) -> list[Segment]:
    """Divide as the model did, else at pauses, and where a segment would become too long."""
    found: list[list[Word]] = []
    for word in words:
        if found and _belongs(word, found[-1]):
            found[-1].append(word)
        else:
            found.append([word])
    return [Segment(words=tuple(group)) for group in found]


def segment_shown(segment: Segment, number: int) -> dict[str, Any]:
    """Show a segment in OpenAI's shape.

    `seek` and `no_speech_prob` are 0 and `tokens` empty, whatever the model has of such.
    """
    text = segment.text.encode()
    characters = sum(len(word.text) for word in segment.words)
    logprob = sum(word.logprob * len(word.text) for word in segment.words) / characters
    return {
        "id": number,
        "seek": 0,
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(logprob, 6),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 6),
        "no_speech_prob": 0.0,
    }


def srt(segments: Sequence[Segment]) -> str:
    """Write subtitles as SubRip."""
    return "".join(
        f"{number}\n{_moment(s.start_s, ',')} --> {_moment(s.end_s, ',')}\n{s.text}\n\n"
        for number, s in enumerate(segments, start=1)
    )


def vtt(segments: Sequence[Segment]) -> str:
    """Write subtitles as WebVTT, in which `&`, `<` and `>` are escaped."""
    return "WEBVTT\n\n" + "".join(
        f"{_moment(s.start_s, '.')} --> {_moment(s.end_s, '.')}\n"
        f"{html.escape(s.text, quote=False)}\n\n"
        for s in segments
    )


def _belongs(word: Word, before: Sequence[Word]) -> bool:
    if word.segment is not None:
        return word.segment == before[-1].segment
    length = len(text_of(before)) + len(word.text) + word.is_apart
    return (
        word.start_s - before[-1].end_s < _PAUSE_S
        and word.end_s - before[0].start_s <= _LONGEST_S
        and length <= _LONGEST_CHARS
    )


def _moment(seconds: float, point: str) -> str:
    whole_s, thousandths = divmod(round(seconds * 1_000), 1_000)
    minutes, rest_s = divmod(whole_s, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest_s:02}{point}{thousandths:03}"
