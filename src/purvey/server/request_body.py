"""A request's body: capped before it is buffered, timed, of the declared type, then parsed."""

import asyncio
from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.requests import ClientDisconnect

from purvey.contracts.limits import LIMITS
from purvey.errors import (
    InvalidJSONError,
    InvalidValueError,
    ReadTimeoutError,
    RequestTooLargeError,
    UnsupportedMediaTypeError,
)
from purvey.server import strict_json

BODY_TIMEOUT_S = 60.0
"""A JSON body must have arrived by then."""
OFF_LOOP_BYTES = 256 * 2**10
"""From this size on, JSON is parsed in a thread so that other requests do not wait."""


async def read_json(request: Request) -> strict_json.Json:
    """Read and parse the JSON body of a request.

    Raises:
        UnsupportedMediaTypeError: The content type is not JSON, or the body is encoded.
        RequestTooLargeError: The body exceeds its limit; no more of it was read.
        ReadTimeoutError: It did not arrive in time.
        InvalidJSONError: It is not the JSON that is accepted.
    """
    check_content_type(request, "application/json")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            parts = [part async for part in capped(request, max_bytes=LIMITS.json_body_bytes)]
    except TimeoutError:
        raise ReadTimeoutError(f"the body took longer than {BODY_TIMEOUT_S:g} s.") from None
    body = b"".join(parts)
    if not body:
        raise InvalidJSONError("the body is empty; a JSON object is expected.")
    if len(body) > OFF_LOOP_BYTES:
        return await asyncio.to_thread(strict_json.loads, body)
    return strict_json.loads(body)


def check_content_type(request: Request, expected: str) -> str:
    """Return the whole content type header if it names the expected type, once and plain.

    Raises:
        UnsupportedMediaTypeError: It does not, or the body is compressed.
    """
    encodings = request.headers.getlist("content-encoding")
    if any(encoding.strip().lower() != "identity" for encoding in encodings):
        raise UnsupportedMediaTypeError("the body must not be encoded; send it plain.")
    given = request.headers.getlist("content-type")
    if len(given) != 1 or given[0].split(";")[0].strip().lower() != expected:
        raise UnsupportedMediaTypeError(f"the content type must be {expected!r}.")
    return given[0]


async def capped(request: Request, *, max_bytes: int) -> AsyncGenerator[bytes]:
    """Yield the body as it arrives, and refuse it as soon as it is too large.

    Raises:
        RequestTooLargeError: More than `max_bytes` were announced or arrived.
    """
    announced = request.headers.get("content-length")
    if announced is not None and (not announced.isascii() or not announced.isdigit()):
        raise InvalidValueError("the Content-Length header is not a number.")
    if announced is not None and int(announced[:20]) > max_bytes:
        raise _too_large(max_bytes)
    total, is_last = 0, False
    while not is_last:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        total += len(chunk)
        if total > max_bytes:
            raise _too_large(max_bytes)
        if chunk:
            yield chunk
        is_last = not message.get("more_body", False)


def _too_large(max_bytes: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"the body is larger than {max_bytes} bytes.")
