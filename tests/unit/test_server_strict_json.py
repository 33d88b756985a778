"""JSON of requests: equal to any other parser's where it is accepted at all."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidJSONError
from purvey.server import strict_json

SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab"), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_what_is_accepted_reads_as_it_was_written(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert strict_json.loads(body) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        strict_json.loads(body)
    except InvalidJSONError as error:
        assert error.status == 400  # noqa: PT017 (the point is that nothing else is raised)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_the_depth_is_kept_to_the_level(opening: bytes, closing: bytes) -> None:
    def nested(depth: int) -> bytes:
        inner = b"1" if opening != b"[" else b""
        return opening * depth + inner + closing * depth

    strict_json.loads(nested(LIMITS.json_depth))
    for depth in (LIMITS.json_depth + 1, 990, 5_000, 100_000):
        with pytest.raises(InvalidJSONError, match="deeper"):
            strict_json.loads(nested(depth))


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert len(strict_json.loads(b"[" + b"[]," * 1_000 + b"[]]")) == 1_001


@pytest.mark.row("INP-05")
@pytest.mark.parametrize("item", [b"1", b"[]", b"{}", b'"a"', b"1.5", b"null", b'{"a":1}'])
def test_values_are_counted_to_the_limit(item: bytes) -> None:
    each = 1 + item.count(b"[") + item.count(b"{")  # with its comma; the first has the bracket
    fitting, over = divmod(LIMITS.json_values, each)
    body = b"[" * over + b"[" + b",".join([item] * fitting) + b"]" + b"]" * over
    assert body.count(b",") + body.count(b"[") + body.count(b"{") == LIMITS.json_values
    strict_json.loads(body)
    with pytest.raises(InvalidJSONError, match="values"):
        strict_json.loads(b"[" + body + b"]")


@pytest.mark.row("INP-05")
@pytest.mark.parametrize("text", [",", "[{", '",', "\\", '\\",', '\\,"'])
def test_what_looks_like_values_within_a_text_is_not_counted(text: str) -> None:
    written = {"text": text * LIMITS.json_values, "more": [text]}
    assert strict_json.loads(json.dumps(written).encode()) == written


@pytest.mark.row("INP-05")
@pytest.mark.parametrize("body", [b'"' + b"\\" + b'"', b'"\\"', b'"\\', b'\\"'])
def test_texts_without_an_end_are_looked_at_once(body: bytes) -> None:
    """Looking for the end of each from its beginning would take hours."""
    with pytest.raises(InvalidJSONError):
        strict_json.loads(b"[" + b"," * (LIMITS.json_values + 1) + body * 1_000_000)


def test_digits_are_kept_to_the_limit() -> None:
    strict_json.loads(b"1" * LIMITS.json_number_digits)
    for number in (b"1" * (LIMITS.json_number_digits + 1), b"0." + b"1" * 500, b"1" * 100_000):
        with pytest.raises(InvalidJSONError, match="digits"):
            strict_json.loads(number)


def test_a_repeated_key_is_named_wherever_it_is() -> None:
    with pytest.raises(InvalidJSONError, match="twice") as raised:
        strict_json.loads(b'{"a": [{"b": 1, "c": 2, "b": 1}]}')
    assert raised.value.param == "b"


def test_escapes_of_one_key_are_one_key() -> None:
    with pytest.raises(InvalidJSONError, match="twice"):
        strict_json.loads(b'{"a": 1, "\\u0061": 2}')


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert strict_json.loads(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize(
    "body", [b'"\\ud800"', b'["a", {"b": "\\uDFFF"}]', b'{"\\udc00": 1}', b'"\\ude00\\ud83d"']
)
def test_half_of_a_surrogate_pair_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJSONError, match="surrogate"):
        strict_json.loads(body)


def test_an_escaped_backslash_is_no_surrogate() -> None:
    assert strict_json.loads(b'"\\\\ud800"') == "\\ud800"


def test_no_message_quotes_the_body() -> None:
    for body in (b'{"canary-4711', b"canary-4711", b'{"x": canary-4711}'):
        with pytest.raises(InvalidJSONError) as raised:
            strict_json.loads(body)
        assert "canary" not in raised.value.text
