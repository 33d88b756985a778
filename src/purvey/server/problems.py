"""The one error contract: every non-2xx of every route is the same envelope.

`{"error": {"message", "type", "param", "code"}}`, JSON, always; nothing else leaks.
"""

import math

import msgspec
from fastapi import Response
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

from purvey.errors import (
    InternalError,
    InvalidValueError,
    MethodNotAllowedError,
    NotRoutedError,
    PurveyError,
)

RETRY_AFTER_S = 1
MAX_RETRY_AFTER_S = 120
"""Clients take a longer one for a refusal."""
_RETRIED_BY_CLIENTS = frozenset({408, 409, 429})
_BODY_MAY_BE_UNREAD = frozenset({401, 403, 405, 408, 413, 415})


class ErrorBody(TypedDict):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(TypedDict):
    """Body of every answer that is not a success."""

    error: ErrorBody


def envelope(error: PurveyError) -> ErrorEnvelope:
    """Show an error the way every route shows it."""
    return {
        "error": {
            "message": error.text,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def problem(error: PurveyError) -> Response:
    """Answer with an error: envelope, status, and what a client should do about it."""
    headers: dict[str, str] = {}
    if error.status in _RETRIED_BY_CLIENTS or error.status >= 500:
        headers["x-should-retry"] = "true" if error.retryable else "false"
    if error.retryable and error.status in {429, 503}:
        wait_s = math.ceil(error.retry_after_s or RETRY_AFTER_S)
        headers["retry-after"] = str(min(wait_s, MAX_RETRY_AFTER_S))
    if error.status in _BODY_MAY_BE_UNREAD:
        headers["connection"] = "close"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, OtherMethodsError):
        headers["allow"] = ", ".join(error.allowed)
    return Response(
        msgspec.json.encode(envelope(error)),
        status_code=error.status,
        headers=headers,
        media_type="application/json",
    )


class OtherMethodsError(MethodNotAllowedError):
    """The path exists; these are its methods."""

    def __init__(self, allowed: list[str]) -> None:
        names = ", ".join(allowed)
        super().__init__(f"this path does not take the method; it takes {names}.")
        self.allowed = allowed


def from_framework(error: HTTPException) -> PurveyError:
    """Translate an error that the web framework raised by itself."""
    if error.status_code == 404:
        return NotRoutedError("no such path on this server.", hint="GET /openapi.json lists all.")
    if 400 <= error.status_code < 500:
        return InvalidValueError("the request cannot be understood.")
    return internal()


def internal() -> InternalError:
    """Return the error that a bug of ours looks like from outside."""
    return InternalError("the server failed to answer; the failure was logged with this request.")
