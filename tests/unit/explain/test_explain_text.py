"""Explanations of generated text and text classes, on models whose reasons are known."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from purvey.contracts.engine import ChatPrompt, NamedInputs, Prompt, TextInput, TextPrompt
from purvey.contracts.explain import ExplainedMessage, ExplanationRequest
from purvey.errors import InvalidValueError, MethodUnsupportedError
from purvey.explain.text import explain_generation, explain_text_class
from purvey.testing.clock import FakeClock


class Capitals:
    """Answers "Paris" because of the word "France"; everything else hardly matters."""

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []

    def generate(self, prompt: Prompt, max_tokens: int) -> str:
        return "Paris"

    def logprob(self, prompts: Sequence[Prompt], output: str) -> list[float]:
        assert output == "Paris"
        self.prompts += prompts
        return [-0.1 if "France" in _text(prompt) else -8.0 for prompt in prompts]


class Spam:
    """Calls a text spam by the number of shouted words."""

    labels: tuple[str, ...] = ("ham", "spam")

    def log_probs(self, inputs: Sequence[NamedInputs]) -> NDArray[np.float64]:
        texts = [one["note"] for one in inputs]
        shouts = [
            sum(w.isupper() for w in t.text.split()) for t in texts if isinstance(t, TextInput)
        ]
        p_spam = 1 / (1 + np.exp(1.0 - 2.0 * np.array(shouts)))
        return np.log(np.stack([1 - p_spam, p_spam], axis=1))


def _text(prompt: Prompt) -> str:
    if isinstance(prompt, ChatPrompt):
        return " ".join(m.content for m in prompt.messages)
    assert isinstance(prompt, TextPrompt)
    return prompt.text


CHAT = ExplanationRequest(
    messages=(
        ExplainedMessage(role="system", content="Answer in one word."),
        ExplainedMessage(role="user", content="Hello there."),
        ExplainedMessage(role="assistant", content="Hi!"),
        ExplainedMessage(role="user", content="What is the capital of France? Please be quick."),
    )
)


def test_generated_text_is_traced_to_the_planted_word() -> None:
    result = explain_generation(CHAT, Capitals(), clock=FakeClock())
    best = min(result.units, key=lambda unit: unit.rank)
    assert (best.text, best.turn, best.char) == ("France?", 3, (23, 30))
    assert best.score == pytest.approx(7.9)
    assert result.faithfulness.verdict == "faithful"
    assert (result.task, result.target.text, result.target.unit) == (
        "text-generation",
        "Paris",
        "logprob",
    )
    assert result.target.value_empty == -8.0


def test_assistant_turns_are_never_changed() -> None:
    model = Capitals()
    explain_generation(CHAT, model, clock=FakeClock())
    for prompt in model.prompts:
        assert isinstance(prompt, ChatPrompt)
        assert [m.role for m in prompt.messages] == ["system", "user", "assistant", "user"]
        assert prompt.messages[2].content == "Hi!"


def test_an_emptied_plain_prompt_is_still_a_prompt() -> None:
    model = Capitals()
    request = ExplanationRequest(text="Capital of France is", output="Paris")
    explain_generation(request, model, clock=FakeClock())
    assert all(_text(prompt) for prompt in model.prompts)


@pytest.mark.parametrize(
    ("units", "kinds", "count"), [("turn", {"turn"}, 3), ("sentence", {"sentence"}, 4)]
)
def test_coarser_units_on_request(units: str, kinds: set[str], count: int) -> None:
    request = msgspec.structs.replace(CHAT, units=units)
    result = explain_generation(request, Capitals(), clock=FakeClock())
    assert {unit.kind for unit in result.units} == kinds
    assert len(result.units) == count


def test_a_small_budget_makes_units_coarser_and_says_so() -> None:
    text = "Nothing to see here at all. " * 30 + "It is about France today. " + "Bye now. " * 30
    request = ExplanationRequest(text=text, output="Paris", random_orders=4, max_forwards=150)
    result = explain_generation(request, Capitals(), clock=FakeClock())
    best = min(result.units, key=lambda unit: unit.rank)
    assert best.text == "France"
    assert result.cost.forwards <= 150
    assert any("max_forwards" in warning for warning in result.warnings)


def test_text_classes_with_label_and_contrast() -> None:
    request = ExplanationRequest(text="you WIN a big PRIZE today")
    plain = explain_text_class(request, Spam(), input_name="note", clock=FakeClock())
    assert (plain.target.label, plain.target.contrast) == ("spam", None)
    assert {u.text for u in plain.units if u.rank <= 2} == {"WIN", "PRIZE"}
    against = explain_text_class(
        msgspec.structs.replace(request, label="ham", contrast="spam"),
        Spam(),
        input_name="note",
        clock=FakeClock(),
    )
    assert against.target.unit == "logprob_difference"
    # log p(ham) - log p(spam) falls by 2 for each shouted word, so taking one away adds 2.
    scores = {u.text: u.score for u in against.units}
    assert scores["WIN"] == pytest.approx(-2.0)
    assert scores["big"] == pytest.approx(0.0)


def test_few_units_come_with_a_warning() -> None:
    request = ExplanationRequest(text="WIN now")
    result = explain_text_class(request, Spam(), input_name="note", clock=FakeClock())
    assert any("too few" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("request_", "error", "param"),
    [
        (ExplanationRequest(text="a b", label="eggs"), InvalidValueError, "target.label"),
        (
            ExplanationRequest(text="a b", label="spam", contrast="spam"),
            InvalidValueError,
            "target.contrast",
        ),
        (ExplanationRequest(text="  "), InvalidValueError, "input"),
        (ExplanationRequest(image=b"x"), InvalidValueError, "input"),
        (ExplanationRequest(text="a b", method="occlusion"), MethodUnsupportedError, "method"),
        (ExplanationRequest(text="a b", units="patch"), MethodUnsupportedError, "units"),
        (ExplanationRequest(text="a b", units="turn"), MethodUnsupportedError, "units"),
        (
            ExplanationRequest(text="a b", perturbation="mean"),
            MethodUnsupportedError,
            "perturbation",
        ),
        (
            ExplanationRequest(text="a b", max_forwards=8),
            InvalidValueError,
            "budget.max_forwards",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    request_: ExplanationRequest, error: type[Exception], param: str
) -> None:
    with pytest.raises(error) as caught:
        explain_text_class(request_, Spam(), input_name="note", clock=FakeClock())
    assert getattr(caught.value, "param", None) == param


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (msgspec.structs.replace(CHAT, label="x"), MethodUnsupportedError),
        (msgspec.structs.replace(CHAT, output=""), InvalidValueError),
        (
            ExplanationRequest(messages=(ExplainedMessage(role="assistant", content="Hi"),)),
            InvalidValueError,
        ),
    ],
)
def test_generation_refuses_what_it_cannot_explain(
    request_: ExplanationRequest, error: type[Exception]
) -> None:
    with pytest.raises(error):
        explain_generation(request_, Capitals(), clock=FakeClock())


def test_a_sure_classifier_is_explained_by_its_odds() -> None:
    """Ten shouted words: p(spam) is 1 to eight digits whichever word goes, the odds still move."""
    request = ExplanationRequest(text="A " * 10 + "b c d e f g h")
    result = explain_text_class(request, Spam(), input_name="note", clock=FakeClock())
    assert [u.score for u in result.units if u.text == "A"] == pytest.approx([2.0] * 10, rel=1e-3)
    assert result.faithfulness.verdict == "faithful"


def test_a_model_of_one_class_is_refused() -> None:
    class Single(Spam):
        labels = ("only",)

    with pytest.raises(InvalidValueError):
        explain_text_class(
            ExplanationRequest(text="a b"), Single(), input_name="note", clock=FakeClock()
        )


def test_half_a_character_is_no_part_of_the_explained_output() -> None:
    class Cut(Capitals):
        def generate(self, prompt: Prompt, max_tokens: int) -> str:
            return "Paris\ufffd"

    result = explain_generation(CHAT, Cut(), clock=FakeClock())
    assert result.target.text == "Paris"
