"""The judge of the fuzz sees what is wrong, and nothing where nothing is."""

import json
from typing import TYPE_CHECKING, cast

import pytest
import requests
import schemathesis
from schemathesis.core.transport import Response

from purvey.server.application import create_app
from tests.fuzz.verdict import complaints

if TYPE_CHECKING:
    from purvey.server.services import Services
    from tests.fuzz.calls import AnyCase

REFUSAL = {
    "error": {"message": "no.", "type": "invalid_request_error", "param": None, "code": "not_found"}
}
FOUND = {"id": "file-0", "object": "file", "deleted": True}
CHUNK = b'data: {"id":"a"}\n\n'


@pytest.fixture(scope="module")
def document() -> dict[str, object]:
    return create_app(cast("Services", None)).openapi()


def _said(
    document: dict[str, object],
    status: int,
    body: object,
    *,
    at: tuple[str, str] = ("/v1/files/{file_id}", "DELETE"),
    media: str = "application/json",
    request_id: str = "req_0",
) -> list[str]:
    schema = schemathesis.openapi.from_dict(document, config=schemathesis.Config())
    case: AnyCase = schema[at[0]][at[1]].Case(path_parameters={"file_id": "file-0"})
    sent = requests.Request(at[1], "http://127.0.0.1/v1").prepare()
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": [media], "x-request-id": [request_id]}
    answer = Response(status, headers, content, sent, elapsed=0.0, verify=False)
    return list(complaints(case, answer))


def test_right_answers_are_right(document: dict[str, object]) -> None:
    assert _said(document, 200, FOUND) == []
    assert _said(document, 404, REFUSAL) == []
    chat = ("/v1/chat/completions", "POST")
    stream = CHUNK + b"data: [DONE]\n\n"
    assert _said(document, 200, stream, at=chat, media="text/event-stream") == []


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (418, REFUSAL, "not documented"),
        (500, REFUSAL, "the server failed"),
        (400, REFUSAL, "came with 400"),
        (404, {"detail": "no"}, "without the one shape"),
        (404, {"error": REFUSAL["error"] | {"more": 1}}, "other fields"),
        (404, {"error": REFUSAL["error"] | {"message": "in /site-packages/x"}}, "the inside"),
        (200, FOUND | {"deleted": "yes"}, "schema"),
        (200, {"id": "file-0"}, "schema"),
        (200, b"{", "JSON"),
    ],
)
def test_wrong_answers_are_wrong(
    document: dict[str, object], status: int, body: object, complaint: str
) -> None:
    assert complaint in " ".join(_said(document, status, body))


def test_headers_count_too(document: dict[str, object]) -> None:
    assert "no x-request-id" in " ".join(_said(document, 200, FOUND, request_id=""))
    assert "Content-Type" in " ".join(_said(document, 200, FOUND, media="text/plain"))


@pytest.mark.parametrize("stream", [CHUNK, CHUNK + b"data: [", b"data: 1\n\ndata: [DONE]\n\n"])
def test_half_a_stream_is_wrong(document: dict[str, object], stream: bytes) -> None:
    chat = ("/v1/chat/completions", "POST")
    said = _said(document, 200, stream, at=chat, media="text/event-stream")
    assert any("stream that just ends" in one or "without a JSON" in one for one in said)
