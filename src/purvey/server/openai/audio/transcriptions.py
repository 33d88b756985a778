"""`/v1/audio/transcriptions`: a recording in, what it says out, whole or as it is heard."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired

from fastapi import Response
from fastapi.responses import PlainTextResponse
from typing_extensions import TypedDict

from purvey.contracts.engine import EngineClient
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import ModelRecord
from purvey.contracts.speech.transcription import (
    Heard,
    Transcribe,
    Transcribed,
    TranscriptEvent,
    Word,
    text_of,
)
from purvey.errors import InvalidValueError, MethodUnsupportedError
from purvey.server import sse
from purvey.server.answers import as_json
from purvey.server.documentation import STREAM
from purvey.server.metering import metered
from purvey.server.openai.audio.form import FORM, LISTS, MAX_FIELDS, TranscriptionForm, read_form
from purvey.server.openai.audio.segments import segment_shown, segments_of, srt, vtt
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes
from purvey.server.uploads import read_upload

routes = Routes(tag="Audio")
_UNKNOWN_LANGUAGE = "unknown"


class DurationUsage(TypedDict):
    """How long the recording is."""

    type: Literal["duration"]
    seconds: float


class TranscribedWord(TypedDict):
    """A word with its times in seconds."""

    word: str
    start: float
    end: float


class TranscribedSegment(TypedDict):
    """Words that are shown together."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class Transcription(TypedDict):
    """What a recording says; times are in `verbose_json` alone."""

    text: str
    usage: DurationUsage
    task: NotRequired[Literal["transcribe"]]
    language: NotRequired[str]
    duration: NotRequired[float]
    words: NotRequired[list[TranscribedWord]]
    segments: NotRequired[list[TranscribedSegment]]


EXAMPLE: dict[str, Any] = {  # JSON values
    "text": "hello world",
    "usage": {"type": "duration", "seconds": 1.5},
}
_STREAMED = (
    sse.data({"type": "transcript.text.delta", "delta": "hello"})
    + sse.data({"type": "transcript.text.delta", "delta": " world"})
    + sse.data({"type": "transcript.text.done", "text": "hello world"})
    + sse.DONE
).decode()
_DOCUMENTED = FORM | {
    "responses": {
        "200": {
            "content": {
                STREAM: {"example": _STREAMED},
                "text/plain": {"example": "hello world\n"},
            }
        }
    }
}


@dataclass(kw_only=True)
class _Hearing:
    """What was heard so far of one recording; `audio_s` is known at its end."""

    words: list[Word] = field(default_factory=list)
    audio_s: float = 0.0


@routes.add(
    "POST",
    "/v1/audio/transcriptions",
    scope="inference",
    returns=Transcription,
    example=EXAMPLE,
    extra=_DOCUMENTED,
)
async def transcribe(call: Caller) -> Response:
    """Write down what a recording says.

    The body is `multipart/form-data` with the parts `file` and `model`. Recordings of any length
    that is accepted are heard in overlapping windows. Times are those at which the model was
    surest of a word's first and last character. `language` is accepted and ignored.
    """
    upload = await read_upload(
        call.request, max_bytes=LIMITS.audio_bytes, max_fields=MAX_FIELDS, repeated=LISTS
    )
    try:
        form = read_form(upload)
        data = await upload.file.read()
    finally:
        await upload.file.close()
    if not data:
        raise InvalidValueError("the file is empty.", param="file")
    if form.stream:
        return await sse.stream(call, _streamed(call, form, data))
    return await while_present(call.request, _whole(call, form, data))


async def _whole(call: Call, form: TranscriptionForm, data: bytes) -> Response:
    hearing = _Hearing()
    async with aclosing(_heard(call, form, data, hearing)) as parts:
        async for _ in parts:
            pass
    match form.response_format:
        case "text":
            return PlainTextResponse(f"{text_of(hearing.words)}\n")
        case "srt":
            return PlainTextResponse(srt(segments_of(hearing.words)))
        case "vtt":
            return PlainTextResponse(vtt(segments_of(hearing.words)))
        case "json":
            return as_json(_shown(hearing))
        case "verbose_json":
            return as_json(_shown_with_times(hearing, form))


async def _streamed(
    call: Call, form: TranscriptionForm, data: bytes
) -> AsyncGenerator[dict[str, Any]]:
    """Yield words as they become certain, and the whole text at the end."""
    hearing = _Hearing()
    async with aclosing(_heard(call, form, data, hearing)) as parts:
        async for words in parts:
            space = " " if words[0].is_apart else ""
            yield {"type": "transcript.text.delta", "delta": space + text_of(words)}
    yield {"type": "transcript.text.done", "text": text_of(hearing.words)}


async def _heard(
    call: Call, form: TranscriptionForm, data: bytes, hearing: _Hearing
) -> AsyncGenerator[tuple[Word, ...]]:
    """Yield words as the model tells them, and note all of them; leaving early cancels."""
    async with (
        call.services.engines.use(call.project_id, form.model) as (record, engine),
        metered(call, kind="transcription", model=record.name) as tally,
    ):
        _check_transcribes(engine, record)
        asked = Transcribe(request_id=call.request_id, data=data)
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


def _closable(engine: EngineClient, asked: Transcribe) -> AsyncGenerator[TranscriptEvent]:
    events = engine.transcribe(asked)
    assert isinstance(events, AsyncGenerator), "engines stream from async generators"  # noqa: S101
    return events


def _check_transcribes(engine: EngineClient, record: ModelRecord) -> None:
    if engine.model.task != "speech-recognition":
        raise MethodUnsupportedError(
            f"the model {record.name!r} is for {engine.model.task} and writes down no recordings.",
            param="model",
            hint="Train one for speech-recognition.",
        )


def _shown(hearing: _Hearing) -> dict[str, Any]:
    usage = {"type": "duration", "seconds": round(hearing.audio_s, 3)}
    return {"text": text_of(hearing.words), "usage": usage}


def _shown_with_times(hearing: _Hearing, form: TranscriptionForm) -> dict[str, Any]:
    shown = _shown(hearing) | {
        "task": "transcribe",
        "language": form.language or _UNKNOWN_LANGUAGE,
        "duration": round(hearing.audio_s, 3),
    }
    wanted = form.timestamp_granularities or ["segment"]
    if "word" in wanted:
        shown["words"] = [
            {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
            for word in hearing.words
        ]
    if "segment" in wanted:
        segments = segments_of(hearing.words)
        shown["segments"] = [segment_shown(s, number) for number, s in enumerate(segments)]
    return shown
