"""`/v1/rerank` and `/v1/score`: order, numbers, counting, and what is refused."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from purvey.contracts.embedding import NamedText, Rank
from purvey.contracts.limits import LIMITS
from purvey.testing.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

RERANK, SCORE = "/v1/rerank", "/v1/score"
QUERY = "cats eat fish"
DOCUMENTS = ["the sky", "fish swim", "what cats eat is fish", "cats eat"]
BEST_FIRST = [(2, 1.0), (3, 2 / 3), (1, 1 / 3), (0, 0.0)]


def test_documents_come_back_best_first(http: httpx2.Client, ranker: str) -> None:
    body = {"model": ranker, "query": QUERY, "documents": DOCUMENTS}
    answer = http.post(RERANK, json=body).json()
    assert set(answer) == {"id", "model", "results", "usage"}
    found = [(one["index"], one["relevance_score"]) for one in answer["results"]]
    assert found == BEST_FIRST
    assert [one["document"]["text"] for one in answer["results"]] == [
        DOCUMENTS[index] for index, _ in BEST_FIRST
    ]
    counted = sum(len(QUERY + document) for document in DOCUMENTS)
    assert answer["usage"] == {"prompt_tokens": counted, "total_tokens": counted}


def test_only_what_is_asked_for_comes_back(http: httpx2.Client, ranker: str) -> None:
    body = {
        "model": ranker,
        "query": QUERY,
        "documents": [DOCUMENTS[0], *({"text": text} for text in DOCUMENTS[1:])],
        "top_n": 2,
        "return_documents": False,
    }
    assert http.post(RERANK, json=body).json()["results"] == [
        {"index": 2, "relevance_score": 1.0},
        {"index": 3, "relevance_score": 2 / 3},
    ]
    many = http.post(RERANK, json=body | {"top_n": 10**6})
    assert len(many.json()["results"]) == len(DOCUMENTS)


def test_the_query_travels_once(
    http: httpx2.Client, ranker: str, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    http.post(RERANK, json={"model": ranker, "query": QUERY, "documents": DOCUMENTS})
    request = engine_of(ranker).requests[-1]
    assert isinstance(request, Rank)
    assert request.first == (NamedText(text=QUERY, param="query"),)
    assert [one.param for one in request.second] == [f"documents.{i}" for i in range(4)]


@pytest.mark.parametrize("names", [("text_1", "text_2"), ("queries", "documents")])
def test_scores_of_pairs(http: httpx2.Client, ranker: str, names: tuple[str, str]) -> None:
    first, second = names
    body: dict[str, Any] = {"model": ranker, first: QUERY, second: DOCUMENTS}
    answer = http.post(SCORE, json=body).json()
    assert answer["object"] == "list"
    assert [one["object"] for one in answer["data"]] == ["score"] * 4
    assert [one["score"] for one in answer["data"]] == [0.0, 1 / 3, 1.0, 2 / 3]
    alone = http.post(SCORE, json=body | {second: DOCUMENTS[2]}).json()["data"]
    assert alone == [{"index": 0, "object": "score", "score": 1.0}]
    two = body | {first: ["the sky", "fish"], second: DOCUMENTS[:2]}
    assert [one["score"] for one in http.post(SCORE, json=two).json()["data"]] == [1.0, 1.0]


def test_a_model_for_embedding_ranks_too(http: httpx2.Client, minilm: str) -> None:
    body = {"model": minilm, "query": QUERY, "documents": DOCUMENTS}
    assert len(http.post(RERANK, json=body).json()["results"]) == 4
    pair = {"model": minilm, "text_1": "a", "text_2": "b"}
    assert len(http.post(SCORE, json=pair).json()["data"]) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": ["a"]}, "query"),
        ({"query": None}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": [""]}, "documents.0"),
        ({"documents": ["a", {"text": ""}]}, "documents.1.text"),
        ({"documents": ["a", {"image": "x"}]}, "documents.1.text"),
        ({"documents": [{"text": "a", "title": "b"}]}, "documents.0.title"),
        ({"documents": [1]}, "documents.0"),
        ({"documents": ["a"] * (LIMITS.embedding_inputs + 1)}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": "1"}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 4_097}, "truncate_prompt_tokens"),
        ({"max_chunks_per_doc": 1}, "max_chunks_per_doc"),
    ],
)
def test_a_bad_rerank_request_is_refused_by_name(
    http: httpx2.Client, ranker: str, refused: "Refusal", fields: dict[str, Any], param: str
) -> None:
    body = {"model": ranker, "query": QUERY, "documents": DOCUMENTS}
    refused(http.post(RERANK, json=body | fields), 400, "invalid_value", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text_1": None}, "text_1"),
        ({"text_2": None}, "text_2"),
        ({"queries": "a"}, "queries"),
        ({"documents": ["a"]}, "documents"),
        ({"text_1": ""}, "text_1"),
        ({"text_2": []}, "text_2"),
        ({"text_2": ["a", ""]}, "text_2.1"),
        ({"text_1": ["a", "b"], "text_2": "c"}, "text_2"),
        ({"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}, "text_2"),
        ({"text_1": {"content": []}}, "text_1"),
    ],
)
def test_a_bad_score_request_is_refused_by_name(
    http: httpx2.Client, ranker: str, refused: "Refusal", fields: dict[str, Any], param: str
) -> None:
    body = {"model": ranker, "text_1": "a", "text_2": "b"}
    refused(http.post(SCORE, json=body | fields), 400, "invalid_value", param)


def test_what_is_too_long_is_refused_or_cut(
    http: httpx2.Client, ranker: str, refused: "Refusal"
) -> None:
    body: dict[str, Any] = {"model": ranker, "query": "a", "documents": ["b", "c" * 5_000]}
    answer = http.post(RERANK, json=body)
    assert "5001" in refused(answer, 400, "context_length_exceeded", "documents.1")
    cut = http.post(RERANK, json=body | {"truncate_prompt_tokens": -1}).json()
    assert cut["usage"]["total_tokens"] == 2 + 4_096


def test_a_model_for_something_else_is_refused(
    http: httpx2.Client, echo: str, spam: str, refused: "Refusal"
) -> None:
    for name in (echo, spam):
        ranked = http.post(RERANK, json={"model": name, "query": "a", "documents": ["b"]})
        refused(ranked, 422, "method_unsupported", "model")
        scored = http.post(SCORE, json={"model": name, "text_1": "a", "text_2": "b"})
        refused(scored, 422, "method_unsupported", "model")


def test_it_is_metered(
    http: httpx2.Client, ranker: str, usage_by_kind: Callable[[], dict[str, Any]]
) -> None:
    before = {kind: usage_by_kind().get(kind, {"rows": 0}) for kind in ("rerank", "score")}
    http.post(RERANK, json={"model": ranker, "query": QUERY, "documents": DOCUMENTS})
    http.post(SCORE, json={"model": ranker, "text_1": "a", "text_2": "b"})
    after = usage_by_kind()
    assert after["rerank"]["rows"] == before["rerank"]["rows"] + 4
    assert after["score"]["rows"] == before["score"]["rows"] + 1
    assert after["score"]["input_tokens"] >= 2
