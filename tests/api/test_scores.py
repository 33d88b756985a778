"""Models for regression, and categories: what they take, give and refuse."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import OpenAI

from purvey.client.purvey import Purvey
from purvey.contracts.engine import NumberInput, TextInput
from purvey.contracts.model import CategorySpec, NumberSpec, TextSpec
from purvey.testing.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from tests.api.conftest import Refusal
    from tests.conftest import RunningServer


@pytest.fixture(scope="module")
def price(register: Callable[..., str]) -> str:
    """A registered regression: a size plus the number of characters of a place."""
    places = CategorySpec(values=("north", "7", "true"))
    inputs = {"size": NumberSpec(), "place": places}
    return register("price", task="regression", inputs=inputs)


@pytest.fixture(scope="module")
def length(register: Callable[..., str]) -> str:
    """A registered regression of one text; its score is the text's length."""
    return register("length", task="regression", inputs={"input": TextSpec()})


def test_a_regression_gives_a_score_and_nothing_else(http: httpx2.Client, price: str) -> None:
    given = [{"size": 2.5, "place": "north"}, {"size": -1, "place": "elsewhere"}]
    answer = http.post("/v1/classify", json={"model": price, "inputs": given}).json()
    assert answer["results"] == [{"score": 7.5}, {"score": 8.0}]
    assert answer["usage"] == {"inputs": 2, "compute_ms": pytest.approx(1.0)}


def test_the_client_reads_scores(api: "RunningServer", length: str) -> None:
    with Purvey(base_url=api.base_url, api_key=api.admin_key) as client:
        results = client.answers.classify(length, ["three", "十个字"]).results
    assert [(r.score, r.label, r.probabilities) for r in results] == [
        (5.0, None, []),
        (3.0, None, []),
    ]


@pytest.mark.parametrize(
    ("given", "category"), [(" north ", "north"), (7, "7"), (7.0, "7"), (True, "true")]
)
def test_a_category_is_spelt_as_in_a_dataset(
    http: httpx2.Client,
    price: str,
    engine_of: Callable[[str], ScriptedEngine],
    given: object,
    category: str,
) -> None:
    body = {"model": price, "input": {"size": 1, "place": given}}
    assert http.post("/v1/classify", json=body).status_code == 200
    request: Any = engine_of(price).requests[-1]
    assert request.inputs == ({"size": NumberInput(value=1), "place": TextInput(text=category)},)


@pytest.mark.parametrize("given", [1.5, None, ["north"], {"text": "north"}])
def test_what_is_no_category_is_refused_by_name(
    http: httpx2.Client, price: str, refused: "Refusal", given: object
) -> None:
    body = {"model": price, "input": {"size": 1, "place": given}}
    told = refused(http.post("/v1/classify", json=body), 400, "invalid_value", "input.place")
    assert "category" in told


def test_labels_are_not_asked_of_a_regression(
    http: httpx2.Client, length: str, refused: "Refusal"
) -> None:
    asked = {"model": length, "input": "abc"}
    answer = http.post("/v1/classify", json=asked | {"top_k": 3})
    refused(answer, 400, "invalid_value", "top_k")
    answer = http.post("/v1/classify", json=asked | {"explain": True})
    refused(answer, 422, "method_unsupported", "explain")


def test_a_decision_needs_probabilities(
    http: httpx2.Client, length: str, refused: "Refusal"
) -> None:
    question = {
        "type": "score",
        "instructions": "How long?",
        "levels": [{"label": "1"}, {"label": "2"}],
    }
    body = {"model": length, "input": "abc", "questions": [question]}
    told = refused(http.post("/v1/decisions", json=body), 422, "method_unsupported", "model")
    assert "/v1/classify" in told


def test_a_regression_has_no_label_to_explain(
    http: httpx2.Client, length: str, refused: "Refusal"
) -> None:
    body = {"model": length, "input": {"text": "abc"}}
    refused(http.post("/v1/explanations", json=body), 422, "method_unsupported", "model")


def test_the_document_knows_both_kinds_of_result(http: httpx2.Client) -> None:
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    items = schemas["Classification"]["properties"]["results"]["items"]
    named = {option["$ref"].rpartition("/")[2] for option in items["anyOf"]}
    assert any("score" in schemas[name]["properties"] for name in named), json.dumps(items)
    assert any("label" in schemas[name]["properties"] for name in named)


def test_a_regression_is_listed_as_one(sdk: OpenAI, length: str) -> None:
    found = sdk.models.retrieve(length).model_dump()
    assert (found["task"], found["labels"]) == ("regression", [])
