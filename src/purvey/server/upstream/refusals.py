"""An upstream's refusals in the one shape of errors, with its status where that is the caller's."""

import asyncio
from typing import NoReturn

import msgspec

from purvey.errors import (
    DeadlineExceededError,
    InvalidValueError,
    MethodUnsupportedError,
    PurveyError,
    RateLimitedError,
    RequestTooLargeError,
    UpstreamFailedError,
    UpstreamMisconfiguredError,
    UpstreamUnavailableError,
    UserError,
    error_classes,
)
from purvey.network.upstream import Upstream, UpstreamAnswer
from purvey.server.problems import MAX_RETRY_AFTER_S

_MAX_BYTES = 64 * 2**10
_MAX_CHARS = 1_000
_PATIENCE_S = 5.0
_CALLERS: dict[int, type[PurveyError]] = {
    400: InvalidValueError,
    413: RequestTooLargeError,
    422: MethodUnsupportedError,
}
"""Refusals of what the caller sent."""


class _Told(msgspec.Struct):
    message: str | None = None
    code: object = None
    param: object = None


class _Body(msgspec.Struct):
    error: _Told | str | None = None
    message: str | None = None
    detail: object = None


async def refuse(upstream: Upstream, answer: UpstreamAnswer) -> NoReturn:
    """Raise what an answer that is no success means for the caller."""
    told = await _told(answer)
    raise meaning(upstream, answer.status, told, retry_after=answer.retry_after)


def meaning(
    upstream: Upstream, status: int, told: _Told, *, retry_after: str | None = None
) -> PurveyError:
    """Return the error that a refusal is.

    What the upstream says is passed on where it is about the caller's request; its word on its own
    failures, on our key and on our address of it is not the caller's.
    """
    name = upstream.name
    if status in _CALLERS:
        return _callers(upstream, status, told)
    if status in {401, 403}:
        return UpstreamMisconfiguredError(f"the upstream {name!r} refused our key.")
    if status in {404, 405, 501}:
        return UpstreamMisconfiguredError(
            f"the upstream {name!r} does not know the model, or does not do what is asked."
        )
    if 300 <= status < 400:
        return UpstreamMisconfiguredError(f"the upstream {name!r} redirects; nobody follows.")
    if status == 429:
        limited = RateLimitedError(f"the upstream {name!r} limits how much it is asked.")
        limited.retry_after_s = _seconds(retry_after)
        return limited
    if status in {503, 529}:
        return UpstreamUnavailableError(
            f"the upstream {name!r} is overloaded.", retry_after_s=_seconds(retry_after)
        )
    if status == 504:
        return DeadlineExceededError(f"the upstream {name!r} took too long.")
    return UpstreamFailedError(f"the upstream {name!r} answered {status}.")


def _callers(upstream: Upstream, status: int, told: _Told) -> PurveyError:
    named = error_classes().get(str(told.code))
    is_same = named is not None and issubclass(named, UserError) and named.status == status
    cls = named if named is not None and is_same else _CALLERS[status]
    message = told.message if _may_show(upstream, told) else None
    param = told.param if isinstance(told.param, str) and len(told.param) <= 128 else None
    said = (message or f"the upstream {upstream.name!r} refuses the request.")[:_MAX_CHARS]
    return cls(said, param=param, hint="")


def _may_show(upstream: Upstream, told: _Told) -> bool:
    return bool(told.message) and upstream.hides(told.message or "")


async def _told(answer: UpstreamAnswer) -> _Told:
    content = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            async for piece in answer.pieces:
                content += piece
                if len(content) > _MAX_BYTES:
                    break
    except (TimeoutError, UpstreamFailedError):
        pass  # the status alone says enough
    return _read(bytes(content))


def _read(content: bytes) -> _Told:
    try:
        body = msgspec.json.decode(content, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Told()
    if isinstance(body.error, _Told):
        return body.error
    told = body.error or body.message or body.detail
    return _Told(message=told if isinstance(told, str) else None)


def _seconds(retry_after: str | None) -> float | None:
    """Read the header: seconds; a date, or what is neither, is not waited for."""
    if retry_after is None or not retry_after.isascii() or not retry_after.isdigit():
        return None
    return min(int(retry_after[:6]), MAX_RETRY_AFTER_S)
