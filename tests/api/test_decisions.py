"""Decisions through the official client: every classifier, and language models by likelihood."""

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import OpenAI
from openai.types import Decision

from purvey.contracts.model import ImageSpec
from purvey.server.openai import likelihood
from purvey.testing.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
IMAGE: Any = [
    {
        "role": "user",
        "content": [{"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}],
    }
]


def choice(*values: object, **others: object) -> dict[str, Any]:
    choices = [{"value": value} for value in values]
    return {"type": "choice", "instructions": "Which?", "choices": choices, **others}


@pytest.fixture(scope="module")
def tone(register: Callable[..., str]) -> str:
    """A registered classifier of three ordered labels."""
    return register("tone", labels=("bad", "fair", "good"))


@pytest.fixture(scope="module")
def digits(register: Callable[..., str]) -> str:
    """A registered image classifier."""
    labels = tuple("0123456789")
    return register("digits", labels=labels, inputs={"input": ImageSpec(height=8, width=8)})


def ask(sdk: OpenAI, model: str, given: Any, *questions: Any) -> Decision:
    decision = sdk.decisions.create(model=model, input=given, questions=list(questions))
    Decision.model_validate(decision.to_dict())
    return decision


def test_a_choice_is_the_probabilities_restricted_and_renormalised(sdk: OpenAI, tone: str) -> None:
    question = choice("good", "bad", name="q1")
    (answer,) = ask(sdk, tone, "this is good", question).answers
    assert answer.type == "choice"
    assert (answer.choice, answer.name) == ("good", "q1")
    found = {p.value: p.probability for p in answer.probabilities}
    assert found == pytest.approx({"good": 0.9 / 0.95, "bad": 0.05 / 0.95})
    assert answer.confidence == found["good"]


def test_a_predicate_asks_for_one_label(sdk: OpenAI, tone: str) -> None:
    question = {"type": "predicate", "instructions": "good"}
    (answer,) = ask(sdk, tone, "this is good", question).answers
    assert answer.type == "predicate"
    assert answer.probability == pytest.approx(0.9)


def test_a_score_is_the_mean_over_ordered_labels(sdk: OpenAI, tone: str) -> None:
    levels = [{"label": label} for label in ("bad", "fair", "good")]
    question = {"type": "score", "instructions": "How good?", "levels": levels}
    (answer,) = ask(sdk, tone, "this is good", question).answers
    assert answer.type == "score"
    assert [p.value for p in answer.probabilities] == [0, 1, 2]
    assert answer.score == pytest.approx(0.05 * 1 + 0.9 * 2)
    assert answer.confidence == pytest.approx(0.9)


def test_questions_are_answered_in_order_from_one_pass(
    sdk: OpenAI, tone: str, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    ask(sdk, tone, "warm up", choice("good", "bad"))
    before = len(engine_of(tone).requests)
    questions = [choice("good", "bad", name=str(i)) for i in range(5)]
    answers = ask(sdk, tone, "this is good", *questions).answers
    assert [answer.name for answer in answers] == list("01234")
    assert len(engine_of(tone).requests) == before + 1


def test_an_image_goes_in_as_a_data_url(
    sdk: OpenAI, digits: str, usage_by_kind: Callable[[], dict[str, dict[str, Any]]]
) -> None:
    (answer,) = ask(sdk, digits, IMAGE, choice(*"0123456789")).answers
    assert answer.type == "choice"
    assert sum(p.probability for p in answer.probabilities) == pytest.approx(1)
    assert usage_by_kind()["decision"]["images"] >= 1


def test_messages_and_json_are_read_as_text(sdk: OpenAI, tone: str) -> None:
    given = [
        {"role": "user", "content": "some"},
        {"role": "user", "content": [{"type": "input_text", "text": "thing"}]},
        {"role": "user", "content": [{"type": "input_json", "data": {"verdict": "good"}}]},
    ]
    (answer,) = ask(sdk, tone, given, choice("good", "bad")).answers
    assert answer.type == "choice"
    assert answer.choice == "good"


def test_a_language_model_answers_by_the_likelihood_of_each_choice(sdk: OpenAI, echo: str) -> None:
    # The scripted model finds characters of the prompt likely, and others not.
    (answer,) = ask(sdk, echo, "abc abc", choice("abc", "xyz", True)).answers
    assert answer.type == "choice"
    assert answer.choice == "abc"
    assert answer.confidence > 0.9
    assert [p.value for p in answer.probabilities] == ["abc", "xyz", True]


def test_a_language_model_weighs_a_predicate_and_a_score(sdk: OpenAI, echo: str) -> None:
    predicate = {"type": "predicate", "instructions": "Is it so? (yes)"}
    levels = [{"label": "low"}, {"label": "high"}]
    score = {"type": "score", "instructions": "low or high?", "levels": levels}
    first, second = ask(sdk, echo, "well", predicate, score).answers
    assert first.type == "predicate"
    assert 0 < first.probability < 1
    assert second.type == "score"
    assert 0 <= second.score <= 1


def test_a_long_input_with_many_choices_goes_to_the_engine_in_parts(
    http: httpx2.Client,
    echo: str,
    engine_of: Callable[[str], ScriptedEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = {"model": echo, "input": "abc", "questions": [choice(*"abcdefg")]}
    whole = http.post("/v1/decisions", json=body).json()
    arrived = len(engine_of(echo).requests)
    monkeypatch.setattr(likelihood, "MESSAGE_CHARS", 40)
    parts = http.post("/v1/decisions", json=body).json()
    assert parts == whole
    requests: Any = engine_of(echo).requests[arrived:]
    assert len(requests) > 1
    assert sum(len(request.pairs) for request in requests) == 7


def test_tokens_of_a_language_model_are_metered(sdk: OpenAI, echo: str) -> None:
    usage = ask(sdk, echo, "abc", choice("a", "b")).usage
    assert usage.input_tokens > 0
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


ONE_CHOICE = {"type": "choice", "instructions": "?", "choices": [{"value": "good"}]}
GOOD_OR_BAD = choice("good", "bad")
PREDICATE = {"type": "predicate", "instructions": "?"}
SCORE = {"type": "score", "instructions": "?", "levels": [{"label": "good"}, {"label": "x"}]}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no label": ({"questions": [choice("good", "great")]}, "questions.0.choices"),
    "no label, second": ({"questions": [GOOD_OR_BAD, choice("x", "y")]}, "questions.1.choices"),
    "a claim for a label": ({"questions": [choice("good", True)]}, "questions.0.choices"),
    "predicate of no label": ({"questions": [PREDICATE]}, "questions.0.instructions"),
    "level of no label": ({"questions": [SCORE]}, "questions.0.levels"),
    "the same twice": ({"questions": [choice("good", "good")]}, "questions.0.choices"),
    "one choice": ({"questions": [ONE_CHOICE]}, "questions.0.choices"),
    "choices of a score": ({"questions": [GOOD_OR_BAD | {"type": "score"}]}, "questions.0.choices"),
    "no questions": ({"questions": []}, "questions"),
    "401 questions": ({"questions": [choice("good", "bad")] * 401}, "questions"),
    "another type": ({"questions": [{"type": "essay", "instructions": "?"}]}, "questions.0.type"),
    "misspelt": ({"questions": [choice("good", "bad", nmae="x")]}, "questions.0.nmae"),
    "no messages": ({"input": []}, "input"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_question_that_is_refused_is_refused_by_place(
    http: httpx2.Client, tone: str, refused: "Refusal", name: str
) -> None:
    change, param = BAD[name]
    body = {"model": tone, "input": "x", "questions": [choice("good", "bad")]} | change
    refused(http.post("/v1/decisions", json=body), 400, "invalid_value", param)


def test_labels_are_named_when_a_choice_is_none(
    http: httpx2.Client, tone: str, refused: "Refusal"
) -> None:
    body = {"model": tone, "input": "x", "questions": [choice("good", "great")]}
    message = refused(
        http.post("/v1/decisions", json=body), 400, "invalid_value", "questions.0.choices"
    )
    assert "'bad', 'fair', 'good'" in message


@pytest.mark.parametrize("given", ["a text", [*IMAGE, *IMAGE], [{"role": "user", "content": "x"}]])
def test_an_image_model_takes_one_image(
    http: httpx2.Client, digits: str, refused: "Refusal", given: Any
) -> None:
    body = {"model": digits, "input": given, "questions": [choice("1", "2")]}
    refused(http.post("/v1/decisions", json=body), 400, "invalid_value", "input")


def test_a_text_model_takes_no_image(http: httpx2.Client, tone: str, refused: "Refusal") -> None:
    body = {"model": tone, "input": IMAGE, "questions": [choice("good", "bad")]}
    refused(http.post("/v1/decisions", json=body), 400, "unsupported_value", "input")


def test_a_broken_data_url_is_refused_by_place(
    http: httpx2.Client, digits: str, refused: "Refusal"
) -> None:
    part = {"type": "input_image", "image_url": "data:image/png;base64,?"}
    given = [{"role": "user", "content": [part]}]
    body = {"model": digits, "input": given, "questions": [choice("1", "2")]}
    answer = http.post("/v1/decisions", json=body)
    refused(answer, 400, "invalid_value", "input.0.content.0.image_url")
