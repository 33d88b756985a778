"""Server-sent events as OpenAI frames them: `data: JSON`, at the end `data: [DONE]`.

A failure after the first byte is one `data: {"error": ...}`, and then the stream ends
without `[DONE]`, so that no client can take a half answer for a whole one.
"""

import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from purvey.errors import PurveyError
from purvey.server.policy import Call
from purvey.server.presence import EventStream, while_present
from purvey.server.problems import envelope, internal
from purvey.telemetry import metrics

logger = logging.getLogger(__name__)
DONE = b"data: [DONE]\n\n"
Chunk = Mapping[str, Any]  # JSON values
Framed = bytes
"""A chunk as `data` frames it, made by `around`."""
_encode = msgspec.json.Encoder().encode


def data(value: object) -> bytes:
    """Frame one JSON value. JSON escapes line ends, so a value cannot end its event."""
    return b"data: " + _encode(value) + b"\n\n"


def around(chunk_of: Callable[[str], Chunk]) -> Callable[[str], Framed]:
    """Return what frames chunks that differ in one text, at the price of encoding the text.

    Args:
        chunk_of: Makes a chunk whose JSON holds the text, once.
    """
    mark = secrets.token_hex(16)  # in no chunk by chance
    before, after = data(chunk_of(mark)).split(_encode(mark))
    return lambda text: before + _encode(text) + after


def example(chunk: Chunk) -> str:
    """Show a stream of one chunk in the documentation."""
    return (data(chunk) + DONE).decode()


async def stream(call: Call, chunks: AsyncGenerator[Chunk | Framed]) -> EventStream:
    """Answer with a stream of chunks, once the first one is there.

    Raises:
        PurveyError: What went wrong before the first chunk: an ordinary answer, no stream.
        ClientDisconnect: The client left before the first chunk.
    """
    events = _framed(chunks)
    first = await while_present(call.request, anext(events))
    return EventStream(events, first=first)


async def _framed(chunks: AsyncGenerator[Chunk | Framed]) -> AsyncGenerator[bytes]:
    has_begun = False
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                yield chunk if type(chunk) is bytes else data(chunk)
                has_begun = True
        except PurveyError as error:
            if not has_begun:
                raise
            logger.warning("stream.failed", extra={"code": error.code})
            yield data(envelope(error))
            return
        except Exception:
            if not has_begun:
                raise
            logger.exception("stream.failed")
            metrics.BROAD_CATCHES.labels("server.sse").inc()
            yield data(envelope(internal()))
            return
        yield DONE
