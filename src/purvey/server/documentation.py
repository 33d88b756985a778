"""What the OpenAPI document says beside the routes: errors, examples, the plain page."""

from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter

from purvey.server.problems import ErrorEnvelope

JSON = "application/json"
STREAM = "text/event-stream"
_REFUSALS: dict[int, tuple[str, str, str]] = {
    400: ("The request cannot be accepted.", "invalid_request_error", "invalid_value"),
    401: ("No valid API key.", "invalid_request_error", "invalid_api_key"),
    403: ("The key lacks the scope.", "permission_error", "insufficient_permissions"),
    404: ("No such object, or not yours.", "invalid_request_error", "not_found"),
    409: ("The state does not allow it.", "conflict_error", "state_conflict"),
    413: ("A byte budget is exceeded.", "invalid_request_error", "request_too_large"),
    415: ("The content type is not accepted.", "invalid_request_error", "unsupported_media_type"),
    422: ("This model cannot do that.", "invalid_request_error", "method_unsupported"),
    429: ("Too many requests.", "rate_limit_error", "rate_limit_exceeded"),
    500: ("A bug; logged.", "server_error", "internal_error"),
    503: ("Not now; try again.", "service_unavailable_error", "server_is_overloaded"),
}
_PUBLIC_REFUSALS = (500, 503)
_SCHEMAS = "#/components/schemas/{model}"
_ERROR_SCHEMA = {"$ref": _SCHEMAS.format(model=ErrorEnvelope.__name__)}

DOCS_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Purvey API</title></head><body>
<h1>Purvey API</h1>
<p>The complete description of every operation, with examples, is the OpenAPI document at
<a href="/openapi.json">/openapi.json</a>. Any OpenAPI viewer shows it.</p>
<ul>
{items}
</ul></body></html>
"""


def responses_of(
    status: int, example: object, *, media: str, is_public: bool
) -> dict[int | str, dict[str, Any]]:
    """Describe every answer of an operation: its success by example, its refusals by shape."""
    shown = _PUBLIC_REFUSALS if is_public else tuple(_REFUSALS)
    found: dict[int | str, dict[str, Any]] = {code: _refusal(code) for code in shown}
    content = {JSON: {"schema": _ERROR_SCHEMA}}
    found["default"] = {"description": "Any other refusal.", "content": content}
    if example is not None:
        found[status] = {"content": {media: {"example": example}}}
    return found


def response_type(media: str) -> type[Response]:
    """Return what tells FastAPI the content type of a success, and that JSON has a schema."""
    if media == JSON:
        return JSONResponse
    return type("Documented", (Response,), {"media_type": media})


def another_success(description: str, example: object, *, schema: str) -> dict[str, Any]:
    """Describe a second kind of success, for the `extra` of a route.

    Args:
        description: When it comes.
        example: Such an answer.
        schema: Name of its type.
    """
    reference = {"$ref": _SCHEMAS.format(model=schema)}
    return {
        "description": description,
        "content": {JSON: {"schema": reference, "example": example}},
    }


def also_streamed(example: str) -> dict[str, Any]:
    """Describe the stream that a success is when it is asked for, for the `extra` of a route.

    Args:
        example: The last events of such a stream.
    """
    return also_shown(STREAM, example)


def also_shown(media: str, example: str) -> dict[str, Any]:
    """Describe another content type of a success, for the `extra` of a route."""
    return {"responses": {"200": {"content": {media: {"example": example}}}}}


def error_schemas() -> dict[str, Any]:
    """Describe the one shape of errors, for the components that every refusal refers to."""
    whole = TypeAdapter(ErrorEnvelope).json_schema(ref_template=_SCHEMAS)
    parts: dict[str, Any] = whole.pop("$defs", {})
    return {**parts, ErrorEnvelope.__name__: whole}


def _refusal(status: int) -> dict[str, Any]:
    description, kind, code = _REFUSALS[status]
    body = {"message": description, "type": kind, "param": None, "code": code}
    content = {JSON: {"schema": _ERROR_SCHEMA, "example": {"error": body}}}
    return {"description": description, "content": content}
