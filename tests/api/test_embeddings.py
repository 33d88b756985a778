"""`/v1/embeddings`: what the official client reads, what is counted, and what is refused."""

import base64
import struct
from collections.abc import Callable
from math import exp
from operator import mul
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import BadRequestError, OpenAI

from purvey.contracts.embedding import Embed, Picture
from purvey.contracts.limits import LIMITS
from purvey.testing.scripted_engine import ScriptedEngine
from purvey.testing.scripted_vectors import SCALE, VECTOR_SIZE, vector

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

PATH = "/v1/embeddings"
IMAGE = "data:image/png;base64," + base64.b64encode(b"an image").decode()


def _float32(numbers: tuple[float, ...]) -> list[float]:
    return list(struct.unpack(f"<{len(numbers)}f", struct.pack(f"<{len(numbers)}f", *numbers)))


def test_the_official_client_reads_numbers_and_base64_alike(sdk: OpenAI, minilm: str) -> None:
    texts = ["the cat sat", "a dog ran", "the cat sat"]
    by_default = sdk.embeddings.create(model=minilm, input=texts)  # it asks for base64
    numbers = sdk.embeddings.create(model=minilm, input=texts, encoding_format="float")
    assert [one.index for one in numbers.data] == [0, 1, 2]
    for text, one, other in zip(texts, numbers.data, by_default.data, strict=True):
        assert one.object == "embedding"
        assert one.embedding == other.embedding == _float32(vector(text))
    assert (numbers.object, numbers.model) == ("list", minilm)
    assert numbers.usage.prompt_tokens == numbers.usage.total_tokens == sum(map(len, texts))


def test_base64_is_little_endian_float32(http: httpx2.Client, minilm: str) -> None:
    body = {"model": minilm, "input": "cat", "encoding_format": "base64"}
    (one,) = http.post(PATH, json=body).json()["data"]
    assert struct.unpack("<8f", base64.b64decode(one["embedding"])) == tuple(
        _float32(vector("cat"))
    )


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("cat", ("cat",)),
        (["cat"], ("cat",)),
        ([99, 97], ((99, 97),)),
        ([[99], [97, 116]], ((99,), (97, 116))),
    ],
)
def test_texts_and_token_ids_reach_the_engine_as_they_are(
    http: httpx2.Client,
    minilm: str,
    engine_of: Callable[[str], ScriptedEngine],
    given: object,
    inputs: tuple[object, ...],
) -> None:
    answer = http.post(PATH, json={"model": minilm, "input": given, "user": "u-1"})
    assert answer.status_code == 200, answer.text
    request = engine_of(minilm).requests[-1]
    assert isinstance(request, Embed)
    assert request.inputs == inputs
    assert len(answer.json()["data"]) == len(inputs)


def test_vectors_are_cut_and_given_length_1_again(sdk: OpenAI, minilm: str) -> None:
    answer = sdk.embeddings.create(model=minilm, input="cat", dimensions=3)
    (one,) = answer.data
    assert one.embedding == _float32(vector("cat", 3))
    assert sum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-6)


def test_long_texts_are_refused_or_cut_as_asked(
    http: httpx2.Client,
    minilm: str,
    engine_of: Callable[[str], ScriptedEngine],
    refused: "Refusal",
) -> None:
    body: dict[str, Any] = {"model": minilm, "input": ["short", "x" * 5_000]}
    refusal = http.post(PATH, json=body)
    message = refused(refusal, 400, "context_length_exceeded", "input.1")
    assert "5000" in message
    assert "4096" in message
    for asked, counted in ((-1, 4_096), (10, 10)):
        answer = http.post(PATH, json=body | {"truncate_prompt_tokens": asked})
        assert answer.json()["usage"]["prompt_tokens"] == len("short") + counted
        request = engine_of(minilm).requests[-1]
        assert isinstance(request, Embed)
        assert request.truncate_tokens == counted
    beyond = http.post(PATH, json=body | {"truncate_prompt_tokens": 4_097})
    refused(beyond, 400, "invalid_value", "truncate_prompt_tokens")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input.0"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": [[]]}, "input.0"),
        ({"input": ["a", 1]}, "input.1"),
        ({"input": [1, "a"]}, "input.1"),
        ({"input": ["a", [1]]}, "input.1"),
        ({"input": [True]}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": [-1]}, "input.0"),
        ({"input": [[1, -1]]}, "input.0.1"),
        ({"input": [2**31]}, "input.0"),
        ({"input": [[["a"]]]}, "input.0.0"),
        ({"input": None}, "input"),
        ({"input": 7}, "input"),
        ({"input": {"image": ""}}, "input.image"),
        ({"input": {}}, "input"),
        ({"input": ["a", {"text": "b", "image": IMAGE}]}, "input.1"),
        ({"input": ["a", {"text": ""}]}, "input.1.text"),
        ({"input": [{"text": "b"}, 1]}, "input.1"),
        ({"input": [{"type": "image_url"}]}, "input.0.type"),
        ({"input": ["a"] * (LIMITS.embedding_inputs + 1)}, "input"),
        ({"input": [[1]] * (LIMITS.embedding_inputs + 1)}, "input"),
        ({"input": [55_296]}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": -1}, "dimensions"),
        ({"dimensions": VECTOR_SIZE + 1}, "dimensions"),
        ({"dimensions": 2.0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"encoding_format": "BASE64"}, "encoding_format"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"pooling": "mean"}, "pooling"),
        ({"user": 1}, "user"),
        ({"model": ""}, "model"),
    ],
)
def test_bad_input_is_refused_by_name(
    http: httpx2.Client, minilm: str, refused: "Refusal", fields: dict[str, Any], param: str
) -> None:
    answer = http.post(PATH, json={"model": minilm, "input": "cat"} | fields)
    message = refused(answer, 400, "invalid_value", param)
    assert len(message) < 300
    assert http.post(PATH, json={"model": minilm, "input": "cat"}).status_code == 200


def test_images_stand_beside_texts(
    http: httpx2.Client,
    clip: str,
    minilm: str,
    engine_of: Callable[[str], ScriptedEngine],
    refused: "Refusal",
    usage_by_kind: Callable[[], dict[str, Any]],
) -> None:
    before = usage_by_kind().get("embedding", {"images": 0})["images"]
    body = {"model": clip, "input": ["cat", {"image": IMAGE}, {"text": "dogs"}]}
    answer = http.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    vectors = [tuple(one["embedding"]) for one in answer.json()["data"]]
    wanted = [_float32(vector(given)) for given in ("cat", b"an image", "dogs")]
    assert vectors == [tuple(numbers) for numbers in wanted]
    assert answer.json()["usage"]["prompt_tokens"] == len("catdogs")
    assert usage_by_kind()["embedding"]["images"] == before + 1
    alone = http.post(PATH, json={"model": clip, "input": {"image": IMAGE}}).json()["data"]
    assert [tuple(one["embedding"]) for one in alone] == vectors[1:2]
    request = engine_of(clip).requests[-1]
    assert isinstance(request, Embed)
    assert (request.inputs, request.params) == ((Picture(data=b"an image"),), ("input.image",))
    for model, given, code, param in (
        (minilm, ["a", {"image": IMAGE}], "unsupported_value", "input.1.image"),
        (clip, [{"image": "data:text/plain;base64,AA=="}], "invalid_value", "input.0.image"),
        (clip, [{"image": "file-none"}], "not_found", "input.0.image"),
    ):
        answer = http.post(PATH, json={"model": model, "input": given})
        refused(answer, 404 if code == "not_found" else 400, code, param)


def test_descriptions_of_an_image_are_weighed(
    sdk: OpenAI, http: httpx2.Client, clip: str, refused: "Refusal"
) -> None:
    parts = [{"type": "input_image", "image_url": IMAGE}]
    asked: dict[str, Any] = {
        "model": clip,
        "input": [{"role": "user", "content": parts}],
        "questions": [
            {
                "type": "choice",
                "instructions": "What is it?",
                "choices": [{"value": "a", "description": "a cat"}, {"value": "dog"}],
            },
            {
                "type": "score",
                "instructions": "How large?",
                "levels": [{"label": "small"}, {"label": "large"}],
            },
        ],
    }
    choice, score = sdk.decisions.create(**asked).answers
    assert choice.type == "choice"
    assert score.type == "score"
    for answer, texts in ((choice, ("a cat", "dog")), (score, ("small", "large"))):
        cosines = (sum(map(mul, vector(b"an image"), vector(text))) for text in texts)
        weights = [exp(SCALE * cosine) for cosine in cosines]
        found = [one.probability for one in answer.probabilities]
        assert found == pytest.approx([weight / sum(weights) for weight in weights], abs=1e-5)
    predicate = {"type": "predicate", "instructions": "Is it a cat?"}
    for fields, param in (
        ({"questions": [predicate]}, "questions.0.type"),
        ({"input": "a cat"}, "input"),
    ):
        refusal = http.post("/v1/decisions", json=asked | fields)
        refused(refusal, 400, "invalid_value", param)


def test_as_many_texts_as_the_limit_says_are_taken(http: httpx2.Client, minilm: str) -> None:
    body = {"model": minilm, "input": ["a"] * LIMITS.embedding_inputs}
    assert len(http.post(PATH, json=body).json()["data"]) == LIMITS.embedding_inputs


def test_a_model_for_something_else_says_what_it_is_for(
    http: httpx2.Client, echo: str, spam: str, ranker: str, refused: "Refusal"
) -> None:
    for name, task in ((echo, "text-generation"), (spam, "text-classif"), (ranker, "rerank")):
        answer = http.post(PATH, json={"model": name, "input": "x"})
        assert task in refused(answer, 422, "method_unsupported", "model")
    refused(http.post(PATH, json={"model": "none", "input": "x"}), 404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/classify", {"input": "x"}),
        ("/v1/tokenize", {"prompt": "x"}),
        ("/v1/explanations", {"input": {"text": "x"}}),
        (
            "/v1/decisions",
            {"input": "x", "questions": [{"type": "predicate", "instructions": "?"}]},
        ),
    ],
)
def test_a_model_for_embedding_does_nothing_else(
    http: httpx2.Client, minilm: str, refused: "Refusal", path: str, body: dict[str, Any]
) -> None:
    refused(http.post(path, json={"model": minilm} | body), 422, "method_unsupported", "model")


def test_it_is_metered(
    http: httpx2.Client, sdk: OpenAI, minilm: str, usage_by_kind: Callable[[], dict[str, Any]]
) -> None:
    before = usage_by_kind().get("embedding", {"requests": 0, "input_tokens": 0, "rows": 0})
    sdk.embeddings.create(model=minilm, input=["four", "fives"])
    with pytest.raises(BadRequestError):
        sdk.embeddings.create(model=minilm, input="x" * 5_000)
    after = usage_by_kind()["embedding"]
    assert after["requests"] == before["requests"] + 2
    assert after["input_tokens"] == before["input_tokens"] + 9
    assert after["rows"] == before["rows"] + 2


def test_the_model_is_listed_for_what_it_does(
    http: httpx2.Client, minilm: str, ranker: str
) -> None:
    shown = [http.get(f"/v1/models/{name}").json() for name in (minilm, ranker)]
    assert [(one["family"], one["task"]) for one in shown] == [
        ("encoder", "embedding"),
        ("encoder", "rerank"),
    ]
