"""JSON that two parsers could read differently, or one only at great cost: on every route."""

import json
from typing import TYPE_CHECKING, Any

import pytest

from purvey.contracts.limits import LIMITS
from tests.matrix.routes import JSON_ROUTES

if TYPE_CHECKING:
    from tests.matrix.conftest import Held

KIND = {"content-type": "application/json"}
DEPTHS = (LIMITS.json_depth + 1, 990, 5_000, 100_000, 1_000_000)
OPENINGS = {
    "lists": (b"[", b"", b"]"),
    "objects": (b'{"a":', b"1", b"}"),
    "both": (b'{"a":[', b"", b"]}"),
}
CHAT = b'{"model":"%s","messages":[{"role":"user","content":"hi"}],%s}'
PLACES = {
    "parameters of a tool": b'"tools":[{"type":"function","function":{"parameters":%s}}]',
    "a schema": b'"response_format":{"type":"json_schema","json_schema":{"schema":%s}}',
    "metadata": b'"metadata":%s',
    "an unknown field": b'"x":%s',
    "a field that is ignored": b'"prompt_cache_options":%s',
}
DUPLICATES = {
    "other values": b'{"%(name)s": 1, "%(name)s": 2}',
    "the same value": b'{"%(name)s": null, "%(name)s": null}',
    "an escape": b'{"%(name)s": 1, "%(escaped)s": 2}',
    "deep inside": b'{"x": [{"%(name)s": 1, "y": 1, "%(name)s": 2}]}',
}
NUMBERS = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 401, b"01", b"+1", b".5"]


def _nested(depth: int, opening: bytes, inner: bytes, closing: bytes) -> bytes:
    return opening * depth + inner + closing * depth


def _refused(held: "Held", path: str, body: bytes) -> dict[str, Any]:
    answer = held.http.post(path, content=body, headers=KIND)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == "invalid_json", error
    return error


@pytest.mark.row("INP-05")
@pytest.mark.parametrize("how", OPENINGS)
def test_no_route_takes_a_body_that_is_nested_too_deep(held: "Held", how: str) -> None:
    num_asked = held.num_engine_requests
    for _, path in JSON_ROUTES:
        for depth in DEPTHS[:-1]:
            _refused(held, path, _nested(depth, *OPENINGS[how]))
    _refused(held, path, _nested(DEPTHS[-1], *OPENINGS[how]))
    _refused(held, path, OPENINGS[how][0] * DEPTHS[-1])  # never closed
    assert held.num_engine_requests == num_asked


@pytest.mark.row("INP-05")
@pytest.mark.parametrize("place", PLACES)
def test_no_field_takes_what_is_nested_too_deep(held: "Held", place: str) -> None:
    num_asked = held.num_engine_requests
    for how in OPENINGS.values():
        for depth in DEPTHS:
            field = PLACES[place] % _nested(depth, *how)
            _refused(held, "/v1/chat/completions", CHAT % (held.model.encode(), field))
    assert held.num_engine_requests == num_asked


@pytest.mark.row("INP-05")
def test_json_within_a_text_is_a_text(held: "Held") -> None:
    """A text is never parsed; a call's arguments are, and named where they are no object."""
    nested = _nested(DEPTHS[-1], *OPENINGS["lists"]).decode()
    assert held.ask(nested[:200]).json()["choices"][0]["message"]["content"] == nested[:200]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": nested}}
    messages = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    body = {"model": held.model, "messages": messages}
    answer = held.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages.0.tool_calls.0.function.arguments"


@pytest.mark.row("INP-05")
def test_no_route_takes_more_values_than_are_cheap(held: "Held") -> None:
    """Two million parts of one message once took a minute and gigabytes."""
    for item in (b"1", b"[]", b"{}", b'{"type":"text"}'):
        body = b'{"x":[' + b",".join([item] * (LIMITS.json_values + 1)) + b"]}"
        for path in [path for _, path in JSON_ROUTES] if item == b"1" else ["/v1/keys"]:
            assert "values" in _refused(held, path, body)["message"]


@pytest.mark.row("INP-05")
def test_a_text_full_of_commas_and_brackets_is_no_matter(held: "Held") -> None:
    text = ',[{"a"\\' * (LIMITS.prompt_chars // 8)
    messages = [{"role": "user", "content": text}]
    body = json.dumps({"model": held.model, "messages": messages})
    answer = held.http.post("/v1/chat/completions", content=body, headers=KIND)
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.row("INP-07")
@pytest.mark.parametrize("how", DUPLICATES)
@pytest.mark.parametrize("name", ["model", "max_tokens", "stream", "name", "recipe"])
def test_no_route_takes_a_key_twice(held: "Held", how: str, name: str) -> None:
    num_asked = held.num_engine_requests
    escaped = f"\\u{ord(name[0]):04x}{name[1:]}"
    body = DUPLICATES[how] % {b"name": name.encode(), b"escaped": escaped.encode()}
    for _, path in JSON_ROUTES:
        assert _refused(held, path, body)["param"] == name
    assert held.num_engine_requests == num_asked


@pytest.mark.row("INP-07")
def test_no_form_or_query_takes_a_field_twice(held: "Held") -> None:
    parts: list[tuple[str, tuple[str | None, str | bytes]]] = [
        ("purpose", (None, "batch")),
        ("purpose", (None, "evals")),
        ("file", ("a", b"x")),
    ]
    answer = held.http.post("/v1/files", files=parts)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "purpose")
    for query in ("limit=1&limit=1", "limit=1&%6cimit=2", "order=asc&limit=1&order=desc"):
        answer = held.http.get(f"/v1/files?{query}")
        assert answer.status_code == 400, query
        assert answer.json()["error"]["param"] in {"limit", "order"}


@pytest.mark.row("INP-07")
def test_no_route_takes_a_header_twice_that_decides_something(held: "Held") -> None:
    for name in ("authorization", "content-type", "idempotency-key"):
        given = {"authorization": held.http.headers["authorization"], **KIND}.get(name, "k")
        headers = [(name, given), (name, f"{given}x")]
        rest = [] if name == "content-type" else list(KIND.items())
        answer = held.http.post("/v1/keys", content=b'{"name": "twice"}', headers=[*headers, *rest])
        assert answer.status_code in {400, 401, 415}, (name, answer.text)
    assert "twice" not in held.http.get("/v1/keys").text


@pytest.mark.row("INP-05", "INP-07")
def test_no_route_takes_numbers_that_parsers_read_differently(held: "Held") -> None:
    for number in NUMBERS:
        for _, path in JSON_ROUTES:
            _refused(held, path, b'{"x": %s}' % number)
