"""Tokens of texts and conversations, under both paths."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

TURNS = [{"role": "user", "content": "hé"}]


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
def test_a_text_comes_back_as_ids_and_texts(http: httpx2.Client, echo: str, path: str) -> None:
    assert http.post(path, json={"model": echo, "prompt": "hé"}).json() == {
        "model": echo,
        "tokens": [104, 233],
        "texts": ["h", "é"],
        "count": 2,
        "max_model_len": 4_096,
    }


def test_a_conversation_is_rendered_first(http: httpx2.Client, echo: str) -> None:
    found = http.post("/v1/tokenize", json={"model": echo, "messages": TURNS}).json()
    assert "".join(found["texts"]) == "user: hé\n"
    assert found["count"] == len(found["tokens"]) == len("user: hé\n")


def test_an_empty_text_has_no_tokens(http: httpx2.Client, echo: str) -> None:
    assert http.post("/v1/tokenize", json={"model": echo, "prompt": ""}).json()["count"] == 0


def test_tokens_are_metered(
    http: httpx2.Client, echo: str, usage_by_kind: Callable[[], dict[str, dict[str, Any]]]
) -> None:
    before = usage_by_kind().get("tokenize", {"requests": 0, "input_tokens": 0})
    http.post("/v1/tokenize", json={"model": echo, "prompt": "four"})
    after = usage_by_kind()["tokenize"]
    assert [after[k] - before[k] for k in ("requests", "input_tokens")] == [1, 4]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": TURNS}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"messages": []}, "messages"),
        ({"text": "a"}, "text"),
    ],
)
def test_one_of_the_two_is_given(
    http: httpx2.Client, echo: str, refused: "Refusal", change: dict[str, object], param: str
) -> None:
    answer = http.post("/v1/tokenize", json={"model": echo} | change)
    refused(answer, 400, "invalid_value", param)


def test_a_classifier_has_no_tokens(http: httpx2.Client, spam: str, refused: "Refusal") -> None:
    answer = http.post("/v1/tokenize", json={"model": spam, "prompt": "a"})
    refused(answer, 422, "method_unsupported", "model")


def test_an_unknown_model_is_not_found(http: httpx2.Client, refused: "Refusal") -> None:
    answer = http.post("/v1/tokenize", json={"model": "no-such", "prompt": "a"})
    refused(answer, 404, "model_not_found", "model")
