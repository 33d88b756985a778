"""`/v1/audio/transcriptions`: a recording in, what it says out, whole or as it is heard."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal, NotRequired

from fastapi import Response
from typing_extensions import TypedDict

from purvey.contracts.speech.transcription import SpeechTask, text_of
from purvey.server import sse
from purvey.server.documentation import STREAM
from purvey.server.openai.audio.form import TRANSCRIPTION, read_transcription_form
from purvey.server.openai.audio.hearing import (
    Hearing,
    Wanted,
    heard,
    read_recording,
    require_content,
    whole,
)
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes

routes = Routes(tag="Audio")


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
    task: NotRequired[SpeechTask]
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
_DOCUMENTED = TRANSCRIPTION | {
    "responses": {
        "200": {
            "content": {
                STREAM: {"example": _STREAMED},
                "text/plain": {"example": "hello world\n"},
            }
        }
    }
}


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
    that is accepted are heard in windows. Models by characters tell when each word was said: the
    times at which they were surest of its first and last character. Those of the Whisper family
    tell times of segments, and of words where they know which of their heads follow the recording.
    `language` is honoured by models that tell several apart.
    """
    upload, data = await read_recording(call)
    form = read_transcription_form(upload)
    require_content(data)
    wanted = Wanted(
        model=form.model,
        response_format=form.response_format,
        task="transcribe",
        language=form.language,
        prompt=form.prompt or "",
        granularities=tuple(form.timestamp_granularities or ["segment"]),
    )
    if form.stream:
        return await sse.stream(call, _streamed(call, wanted, data))
    return await while_present(call.request, whole(call, wanted, data))


async def _streamed(call: Call, wanted: Wanted, data: bytes) -> AsyncGenerator[dict[str, Any]]:
    """Yield words as they become certain, and the whole text at the end."""
    hearing = Hearing()
    async with aclosing(heard(call, wanted, data, hearing)) as parts:
        async for words in parts:
            space = " " if words[0].is_apart else ""
            yield {"type": "transcript.text.delta", "delta": space + text_of(words)}
    yield {"type": "transcript.text.done", "text": text_of(hearing.words)}
