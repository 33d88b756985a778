"""What an upstream is asked: the caller's body, with its own name for the model."""

from dataclasses import dataclass
from typing import Any

import msgspec

from purvey.contracts.deployment import GenerationDefaults
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import UsageKind
from purvey.errors import InvalidValueError
from purvey.server.strict_json import Json

_encode = msgspec.json.Encoder().encode
_LENGTH = {"chat": "max_completion_tokens", "completion": "max_tokens"}


@dataclass(frozen=True, kw_only=True)
class Asking:
    """One request to an upstream.

    Args:
        body: JSON.
        is_stream: Whether the answer comes as events.
        wants_usage: Whether the caller asked for a last event with the token counts; the upstream
            always is.
    """

    body: bytes
    is_stream: bool
    wants_usage: bool


def asking(
    given: dict[str, Json], *, model: str, kind: UsageKind, defaults: GenerationDefaults
) -> Asking:
    """Turn a caller's body into what the upstream is asked.

    Only what is read here is checked; the rest is for the upstream to refuse.

    Args:
        given: The caller's body; unchanged.
        model: The upstream's name for the model.
        kind: What is asked for.
        defaults: What a generation gets where the body is silent.

    Raises:
        InvalidValueError: A field that is read here is of a wrong type, or out of its limits.
    """
    body = given | {"model": model}
    is_stream = _flag(body, "stream")
    if kind == "embedding" and is_stream:
        raise InvalidValueError("vectors are not streamed.", param="stream")
    if kind != "embedding":
        _check_choices(body.get("n"))
        body = _silent(body, kind, defaults) | body
    wants_usage = False
    if is_stream:
        options = body.get("stream_options") or {}
        if not isinstance(options, dict):
            raise InvalidValueError("stream_options must be an object.", param="stream_options")
        wants_usage = _flag(options, "include_usage", at="stream_options.")
        body["stream_options"] = options | {"include_usage": True}
    return Asking(body=_encode(body), is_stream=is_stream, wants_usage=wants_usage)


def _flag(body: dict[str, Json], name: str, *, at: str = "") -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidValueError(f"{at}{name} must be true or false.", param=f"{at}{name}")
    return bool(value)


def _check_choices(n: Json) -> None:
    is_number = isinstance(n, int) and not isinstance(n, bool)
    if n is not None and not (is_number and 1 <= n <= LIMITS.request_choices):
        raise InvalidValueError(f"n must be from 1 to {LIMITS.request_choices}.", param="n")


def _silent(
    body: dict[str, Json], kind: UsageKind, defaults: GenerationDefaults
) -> dict[str, Any]:  # JSON values
    """Return the defaults that the body does not name by itself."""
    given = {k: v for k, v in msgspec.structs.asdict(defaults).items() if v is not None}
    length = given.pop("max_tokens", None)
    if length is not None and not {"max_tokens", "max_completion_tokens"} & body.keys():
        given[_LENGTH[kind]] = length
    return {name: value for name, value in given.items() if body.get(name) is None}
