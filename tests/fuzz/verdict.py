"""What is wrong with an answer, held against the description of its operation."""

import json
from collections.abc import Iterator

from schemathesis.core.failures import FailureGroup
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
)

from purvey.errors import error_classes
from tests.fuzz.calls import AnyCase

CHECKS = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SERVER_STATUSES = {501, 503}
"""Refusals of the server's own that are no defect: not implemented, and not now."""


def complaints(case: AnyCase, response: Response, *, has_own_body: bool = True) -> Iterator[str]:
    """Yield every complaint about an answer; none is right.

    Args:
        case: What was sent.
        response: What came.
        has_own_body: Whether its body is the generated one, wrong where that was to be wrong.
    """
    status = response.status_code
    if str(status) not in case.operation.responses.status_codes:
        yield f"the status {status} is not documented"
    if status >= 500 and status not in SERVER_STATUSES:
        yield f"the server failed with {status}: {response.text[:300]}"
    if not _header(response, "x-request-id").startswith("req_"):
        yield "the answer has no x-request-id"
    if not 200 <= status < 300:
        yield from _refusal_complaints(response)
    if _header(response, "content-type").startswith("text/event-stream"):
        yield from _stream_complaints(response.text)
    # A form has no types to get wrong: what is wrong as JSON may be right as text.
    has_types = has_own_body and case.media_type == "application/json"
    is_to_fail = has_types or case.method == "GET"
    checks = [*CHECKS, negative_data_rejection] if is_to_fail else list(CHECKS)
    try:
        case.validate_response(response, checks=checks)
    except FailureGroup as group:
        yield from (f"{failure.title}: {failure.message}"[:500] for failure in group.exceptions)


def _header(response: Response, name: str) -> str:
    values = response.headers.get(name, [])
    return values[0] if len(values) == 1 else ""


def _refusal_complaints(response: Response) -> Iterator[str]:
    try:
        error = response.json()["error"]
        code, kind = error["code"], error["type"]
    except (ValueError, KeyError, TypeError):
        yield f"a refusal without the one shape of errors: {response.text[:300]}"
        return
    if set(error) != {"message", "type", "param", "code"} or not error["message"]:
        yield f"a refusal of other fields: {sorted(error)}"
    known = error_classes().get(code)
    if known is None or (known.status, known.type) != (response.status_code, kind):
        yield f"a refusal {code!r} of type {kind!r} came with {response.status_code}"
    if any(trace in response.text for trace in ("Traceback", "/site-packages/", "0x7f")):
        yield f"a refusal that tells of the inside: {response.text[:300]}"


def _stream_complaints(text: str) -> Iterator[str]:
    events = text.removesuffix("\n\n").split("\n\n")
    last = events[-1]
    is_whole = last == "data: [DONE]" or last.startswith("event: done\n")
    if not is_whole and not last.startswith('data: {"error":'):
        yield f"a stream that just ends: {last[:300]}"
    for event in events:
        payload = event.rpartition("data: ")[2]
        if payload != "[DONE]" and not _is_object(payload):
            yield f"an event without a JSON object: {event[:300]}"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
