"""A recording being heard for a request, and what was heard in every format."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response
from fastapi.responses import PlainTextResponse

from purvey.contracts.engine import EngineClient
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import ModelRecord
from purvey.contracts.speech.transcription import (
    Heard,
    SpeechTask,
    Transcribe,
    Transcribed,
    TranscriptEvent,
    Word,
    text_of,
)
from purvey.errors import InvalidValueError, MethodUnsupportedError, UnsupportedValueError
from purvey.server.answers import as_json
from purvey.server.metering import metered
from purvey.server.openai.audio.form import LISTS, MAX_FIELDS, Format, Granularity
from purvey.server.openai.audio.segments import segment_shown, segments_of, srt, vtt
from purvey.server.policy import Call
from purvey.server.uploads import Upload, read_upload

_UNKNOWN_LANGUAGE = "unknown"
_ENGLISH = "english"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a request asks of a recording; the fields are those of its form."""

    model: str
    response_format: Format
    task: SpeechTask
    language: str | None
    prompt: str
    granularities: tuple[Granularity, ...]


@dataclass(kw_only=True)
class Hearing:
    """What was heard so far of one recording; `audio_s` and `language` are known at its end."""

    words: list[Word] = field(default_factory=list)
    audio_s: float = 0.0
    language: str | None = None


async def read_recording(call: Call) -> tuple[Upload, bytes]:
    """Return an upload with the bytes of its file, which is closed.

    Raises:
        InvalidValueError: The file is empty.
        PurveyError: As `read_upload`.
    """
    upload = await read_upload(
        call.request, max_bytes=LIMITS.audio_bytes, max_fields=MAX_FIELDS, repeated=LISTS
    )
    try:
        data = await upload.file.read()
    finally:
        await upload.file.close()
    return upload, data


def require_content(data: bytes) -> None:
    """Refuse an empty file.

    Raises:
        InvalidValueError: It is one.
    """
    if not data:
        raise InvalidValueError("the file is empty.", param="file")


async def whole(call: Call, wanted: Wanted, data: bytes) -> Response:
    """Hear a recording to its end and answer in the format that is wanted."""
    hearing = Hearing()
    async with aclosing(heard(call, wanted, data, hearing)) as parts:
        async for _ in parts:
            pass
    match wanted.response_format:
        case "text":
            return PlainTextResponse(f"{text_of(hearing.words)}\n")
        case "srt":
            return PlainTextResponse(srt(segments_of(hearing.words)))
        case "vtt":
            return PlainTextResponse(vtt(segments_of(hearing.words)))
        case "json":
            return as_json(_shown(hearing))
        case "verbose_json":
            return as_json(_shown_with_times(hearing, wanted))


async def heard(
    call: Call, wanted: Wanted, data: bytes, hearing: Hearing
) -> AsyncGenerator[tuple[Word, ...]]:
    """Yield words as the model tells them, and note all of them; leaving early cancels.

    Raises:
        MethodUnsupportedError: The model does not do this at all.
        UnsupportedValueError: It does not honour a field; names it.
        InvalidValueError: It knows no such language.
    """
    async with (
        call.services.engines.use(call.project_id, wanted.model) as (record, engine),
        metered(call, kind="transcription", model=record.name) as tally,
    ):
        _check_skills(engine, record, wanted)
        asked = Transcribe(
            request_id=call.request_id,
            data=data,
            task=wanted.task,
            language=wanted.language.lower() if wanted.language else None,
            prompt=wanted.prompt,
            has_words="word" in wanted.granularities,
        )
        async with aclosing(_closable(engine, asked)) as events:
            async for event in events:
                match event:
                    case Heard(words=words):
                        hearing.words.extend(words)
                        tally.audio_s = words[-1].end_s
                        yield words
                    case Transcribed():
                        tally.rows, tally.compute_s = 1, event.compute_s
                        tally.audio_s = hearing.audio_s = event.audio_s
                        hearing.language = event.language


def _closable(engine: EngineClient, asked: Transcribe) -> AsyncGenerator[TranscriptEvent]:
    events = engine.transcribe(asked)
    assert isinstance(events, AsyncGenerator), "engines stream from async generators"  # noqa: S101
    return events


def _check_skills(engine: EngineClient, record: ModelRecord, wanted: Wanted) -> None:
    if engine.model.task != "speech-recognition":
        raise MethodUnsupportedError(
            f"the model {record.name!r} is for {engine.model.task} and writes down no recordings.",
            param="model",
            hint="Train one for speech-recognition.",
        )
    skills = engine.model.speech
    if wanted.task == "translate" and not skills.translates:
        raise MethodUnsupportedError(
            f"the model {record.name!r} does not translate.",
            param="model",
            hint="Write it down with /v1/audio/transcriptions.",
        )
    if wanted.prompt and not skills.takes_prompt:
        raise UnsupportedValueError(
            f"what {record.name!r} hears depends on the recording alone.",
            param="prompt",
            hint="Leave it out.",
        )
    if "word" in wanted.granularities and not skills.has_word_times:
        raise UnsupportedValueError(
            f"the model {record.name!r} tells times of segments, not of words.",
            param="timestamp_granularities",
            hint="Ask for 'segment'.",
        )
    languages = skills.languages
    if wanted.language and languages and wanted.language.lower() not in languages:
        raise InvalidValueError(
            f"the model {record.name!r} knows no such language; it knows {', '.join(languages)}.",
            param="language",
        )


def _shown(hearing: Hearing) -> dict[str, Any]:
    usage = {"type": "duration", "seconds": round(hearing.audio_s, 3)}
    return {"text": text_of(hearing.words), "usage": usage}


def _shown_with_times(hearing: Hearing, wanted: Wanted) -> dict[str, Any]:
    language = hearing.language or wanted.language or _UNKNOWN_LANGUAGE
    shown = _shown(hearing) | {
        "task": wanted.task,
        "language": _ENGLISH if wanted.task == "translate" else language,
        "duration": round(hearing.audio_s, 3),
    }
    if "word" in wanted.granularities:
        shown["words"] = [
            {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
            for word in hearing.words
        ]
    if "segment" in wanted.granularities:
        segments = segments_of(hearing.words)
        shown["segments"] = [segment_shown(s, number) for number, s in enumerate(segments)]
    return shown
