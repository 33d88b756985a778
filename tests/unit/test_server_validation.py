"""From outside values to typed ones: which field is named, and what is suggested."""

import time
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from purvey.errors import InvalidValueError, UnsupportedValueError
from purvey.server.openai.chat_request import ChatRequest
from purvey.server.openai.completions import CompletionRequest
from purvey.server.validation import Body, Question, validate


class Part(Body):
    kind: Literal["text"]
    text: str | None = None


class Turn(Body):
    role: Literal["user", "system"]
    content: str | list[Part]


class Asked(Body):
    accepts_only: ClassVar[dict[str, tuple[object, ...]]] = {
        "n": (None, 1),
        "tools": (None, []),
        "store": (None, False),
    }
    model: str
    turns: list[Turn] | None = None
    stop: Annotated[str, Field(min_length=1)] | list[str] | None = None
    weight: float = 1.0
    n: object = None
    tools: object = None
    store: object = None


class Wanted(Question):
    limit: int = 20


def saying(content: object, **turn: object) -> dict[str, Any]:
    return {"model": "m", "turns": [{"role": "user", "content": content} | turn]}


CASES: dict[str, tuple[Any, str | None]] = {
    "missing": ({}, "model"),
    "wrong type": ({"model": 5}, "model"),
    "number as text": ({"model": "m", "weight": "1"}, "weight"),
    "true as number": ({"model": "m", "weight": True}, "weight"),
    "deep literal": (saying("", role="king"), "turns.0.role"),
    "deep missing": ({"model": "m", "turns": [{"role": "user"}]}, "turns.0.content"),
    "union, neither": (saying(5), "turns.0.content"),
    "union, object": (saying({"a": 1}), "turns.0.content"),
    "union, deepest": (saying([{"kind": "x"}]), "turns.0.content.0.kind"),
    "union, missing inside": (saying([{}]), "turns.0.content.0.kind"),
    "second of a list": ({"model": "m", "stop": ["a", 1]}, "stop.1"),
    "no object": ([], None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_field_at_fault_is_named_by_its_path(name: str) -> None:
    value, param = CASES[name]
    with pytest.raises(InvalidValueError) as raised:
        validate(Asked, value)
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("value", "param", "meant"),
    [
        ({"model": "m", "modle": 1}, "modle", "'model'"),
        (saying("", contents=""), "turns.0.contents", "'content'"),
        (
            saying([{"kind": "text", "txt": ""}]),
            "turns.0.content.0.txt",
            "'text'",
        ),
        ({"model": "m", "zzz": 1}, "zzz", None),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest(
    value: dict[str, Any], param: str, meant: str | None
) -> None:
    with pytest.raises(InvalidValueError) as raised:
        validate(Asked, value)
    assert raised.value.param == param
    assert ("Did you mean" in raised.value.text) == (meant is not None)
    if meant is not None:
        assert meant in raised.value.text


@pytest.mark.parametrize(
    "accepted",
    [{"n": 1}, {"n": None}, {"n": 1.0}, {"tools": []}, {"store": False}, {}],
)
def test_what_asks_for_nothing_is_accepted(accepted: dict[str, object]) -> None:
    validate(Asked, {"model": "m"} | accepted)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"n": "1"}, "n"),
        ({"tools": [1]}, "tools"),
        ({"tools": {}}, "tools"),
        ({"store": True}, "store"),
        ({"store": 0}, "store"),
    ],
)
def test_what_asks_for_something_unsupported_is_refused(
    given: dict[str, object], param: str
) -> None:
    with pytest.raises(UnsupportedValueError) as raised:
        validate(Asked, {"model": "m"} | given)
    assert raised.value.param == param


def test_a_query_string_becomes_numbers() -> None:
    assert validate(Wanted, {"limit": "5"}).limit == 5
    with pytest.raises(InvalidValueError):
        validate(Wanted, {"limit": "five"})


def test_no_message_quotes_a_value() -> None:
    for value in ({"model": ["canary-4711"]}, {"model": "m", "stop": {"canary-4711": 1}}):
        with pytest.raises(InvalidValueError) as raised:
            validate(Asked, value)
        assert "canary" not in raised.value.text


def test_a_very_long_name_is_cut() -> None:
    with pytest.raises(InvalidValueError) as raised:
        validate(Asked, {"model": "m", "x" * 10_000: 1})
    assert len(raised.value.text) < 500


def test_a_body_of_countless_mistakes_is_refused_without_counting_them_all() -> None:
    """Complaining about each took a minute and gigabytes for a body of three megabytes."""
    unknown: dict[str, Any] = {f"k{i}": 1 for i in range(100_000)}
    bodies: list[tuple[type[Body], dict[str, Any]]] = [
        (Asked, {"model": "m"} | unknown),
        (CompletionRequest, {"model": "m", "prompt": [{}] * 300_000}),
        (ChatRequest, {"model": "m", "messages": [{"role": "user", "content": [{}] * 300_000}]}),
    ]
    for schema, body in bodies:
        began = time.perf_counter()
        with pytest.raises(InvalidValueError):
            validate(schema, body)
        assert time.perf_counter() - began < 1, schema
