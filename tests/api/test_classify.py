"""`/v1/classify`: texts, numbers, images and mixtures in, labels with probabilities out."""

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from purvey.contracts.engine import ImageInput, NumberInput, TextInput
from purvey.contracts.model import ImageSpec, NumberSpec, TextSpec
from purvey.server.native import inputs
from purvey.testing.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


@pytest.fixture(scope="module")
def digits(register: Callable[..., str]) -> str:
    """A registered image classifier."""
    image = ImageSpec(height=8, width=8)
    return register("digits", labels=("0", "1", "2"), inputs={"input": image})


@pytest.fixture(scope="module")
def mixed(register: Callable[..., str]) -> str:
    """A registered classifier of a note with an age."""
    return register("mixed", labels=("no", "yes"), inputs={"note": TextSpec(), "age": NumberSpec()})


def test_one_text_gets_its_labels_most_probable_first(http: httpx2.Client, spam: str) -> None:
    answer = http.post("/v1/classify", json={"model": spam, "input": "this is spam"}).json()
    assert answer["object"] == "classification"
    (result,) = answer["results"]
    assert result["label"] == "spam"
    assert result["calibrated"] is True
    assert [p["label"] for p in result["probabilities"]] == ["spam", "ham"]
    assert sum(p["probability"] for p in result["probabilities"]) == pytest.approx(1)
    assert answer["usage"]["inputs"] == 1


def test_many_inputs_are_answered_in_order(http: httpx2.Client, spam: str) -> None:
    body = {"model": spam, "inputs": ["ham", {"text": "spam"}, "ham"], "top_k": 1}
    results = http.post("/v1/classify", json=body).json()["results"]
    assert [r["label"] for r in results] == ["ham", "spam", "ham"]
    assert all(len(r["probabilities"]) == 1 for r in results)


def test_an_image_is_a_data_url_or_a_file(
    http: httpx2.Client, digits: str, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    file = http.post("/v1/files", files={"file": PNG}, data={"purpose": "vision"}).json()
    for given in (DATA_URL, file["id"]):
        answer = http.post("/v1/classify", json={"model": digits, "input": {"image": given}})
        assert answer.status_code == 200, answer.text
        request: Any = engine_of(digits).requests[-1]
        assert request.inputs == ({"input": ImageInput(data=PNG)},)


def test_a_mixture_is_given_by_name(
    http: httpx2.Client, mixed: str, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    body = {"model": mixed, "input": {"note": "yes please", "age": 41}}
    assert http.post("/v1/classify", json=body).json()["results"][0]["label"] == "yes"
    request: Any = engine_of(mixed).requests[-1]
    assert request.inputs == ({"note": TextInput(text="yes please"), "age": NumberInput(value=41)},)


def test_an_answer_can_come_with_its_explanation(
    http: httpx2.Client, spam: str, digits: str
) -> None:
    for model, given in ((spam, "this is spam"), (digits, {"image": DATA_URL})):
        body = {"model": model, "input": given, "explain": True}
        (result,) = http.post("/v1/classify", json=body).json()["results"]
        explanation = result["explanation"]
        assert explanation["target"]["label"] == result["label"]
        assert explanation["units"]
        assert explanation["faithfulness"]["verdict"] in {"faithful", "weak", "unfaithful"}


def test_rows_and_images_are_metered(
    http: httpx2.Client, digits: str, usage_by_kind: Callable[[], dict[str, dict[str, Any]]]
) -> None:
    before = usage_by_kind().get("classify", {"rows": 0, "images": 0, "requests": 0})
    http.post("/v1/classify", json={"model": digits, "inputs": [{"image": DATA_URL}] * 3})
    after = usage_by_kind()["classify"]
    grown = [after[unit] - before[unit] for unit in ("rows", "images", "requests")]
    assert grown == [3, 3, 1]


def test_images_of_many_files_are_read_and_classified_a_few_at_a_time(
    http: httpx2.Client,
    digits: str,
    engine_of: Callable[[str], ScriptedEngine],
    usage_by_kind: Callable[[], dict[str, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inputs, "BATCH_BYTES", 2 * len(PNG))
    http.post("/v1/classify", json={"model": digits, "input": {"image": DATA_URL}})
    engine, before = engine_of(digits), usage_by_kind()["classify"]
    arrived = len(engine.requests)
    file = http.post("/v1/files", files={"file": PNG}, data={"purpose": "vision"}).json()
    body = {"model": digits, "inputs": [{"image": file["id"]}] * 5}
    answer = http.post("/v1/classify", json=body).json()
    assert len(answer["results"]) == answer["usage"]["inputs"] == 5
    requests: Any = engine.requests[arrived:]
    assert [len(request.inputs) for request in requests] == [2, 2, 1]
    after = usage_by_kind()["classify"]
    grown = [after[unit] - before[unit] for unit in ("rows", "images", "requests")]
    assert grown == [5, 5, 1]


BAD: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "neither": ({}, 400, "invalid_value", "input"),
    "both": ({"input": "a", "inputs": ["a"]}, 400, "invalid_value", "input"),
    "none": ({"inputs": []}, 400, "invalid_value", "inputs"),
    "257": ({"inputs": ["a"] * 257}, 400, "invalid_value", "inputs"),
    "top_k of none": ({"input": "a", "top_k": 0}, 400, "invalid_value", "top_k"),
    "a list": ({"inputs": [["a"]]}, 400, "invalid_value", "inputs.0"),
    "a claim": ({"input": True}, 400, "invalid_value", "input"),
    "another name": ({"input": {"note": "a"}}, 400, "invalid_value", "input"),
    "text and image": ({"input": {"text": "a", "image": "b"}}, 400, "invalid_value", "input"),
    "misspelt": ({"inptu": "a"}, 400, "invalid_value", "inptu"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_an_input_that_is_refused_is_refused_by_name(
    http: httpx2.Client, spam: str, refused: "Refusal", name: str
) -> None:
    change, status, code, param = BAD[name]
    refused(http.post("/v1/classify", json={"model": spam} | change), status, code, param)


PICTURES: dict[str, tuple[str, int, str]] = {
    "an address": ("http://x/y.png", 400, "url_not_allowed"),
    "a path": ("/etc/passwd", 400, "invalid_value"),
    "no base64": ("data:image/png;base64,@@", 400, "invalid_value"),
    "no image": ("data:text/html;base64,eA==", 400, "invalid_value"),
    "no such file": ("file-none", 404, "not_found"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_is_refused_is_refused_by_name(
    http: httpx2.Client, digits: str, refused: "Refusal", name: str
) -> None:
    given, status, code = PICTURES[name]
    answer = http.post("/v1/classify", json={"model": digits, "input": {"image": given}})
    refused(answer, status, code, "input.image")


def test_a_mixture_that_lacks_a_part_names_what_there_is(
    http: httpx2.Client, mixed: str, refused: "Refusal"
) -> None:
    answer = http.post("/v1/classify", json={"model": mixed, "input": {"note": "x"}})
    assert "note, age" in refused(answer, 400, "invalid_value", "input")
    answer = http.post("/v1/classify", json={"model": mixed, "input": "x"})
    refused(answer, 400, "invalid_value", "input")


def test_an_image_above_the_limit_is_refused(
    http: httpx2.Client, digits: str, refused: "Refusal"
) -> None:
    huge = "data:image/png;base64," + "A" * (22 * 2**20 + 400_000)
    answer = http.post("/v1/classify", json={"model": digits, "input": {"image": huge}})
    refused(answer, 413, "request_too_large", "input.image")


def test_a_language_model_does_not_classify(
    http: httpx2.Client, echo: str, refused: "Refusal"
) -> None:
    answer = http.post("/v1/classify", json={"model": echo, "input": "x"})
    refused(answer, 422, "method_unsupported", "model")
