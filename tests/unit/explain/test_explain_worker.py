"""Explanations joined to a model's queues: futures, labels, images as the model sees them."""

import io
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from PIL import Image

from purvey.contracts.engine import ImageInput, NamedInputs, Prompt, TextInput
from purvey.contracts.explain import ExplanationRequest
from purvey.contracts.model import (
    ImageSpec,
    InputSpec,
    ModelManifest,
    NumberSpec,
    TextSpec,
)
from purvey.errors import (
    InvalidValueError,
    MethodUnsupportedError,
    PurveyError,
    ShuttingDownError,
)
from purvey.models.images import image_tensor
from purvey.worker.explaining import Pair, explain_classifier, explain_language

Answer = Future[Any]  # of whatever the fake answers
SPEC = ImageSpec(height=8, width=8, channels=1, mean=(0.5,), std=(0.25,))


def done(value: object) -> Answer:
    future: Answer = Future()
    future.set_result(value)
    return future


def manifest(**inputs: InputSpec) -> ModelManifest:
    return ModelManifest(
        family="module", task="classification", labels=("dark", "bright"), inputs=inputs
    )


def brightness(inputs: Sequence[NamedInputs]) -> Answer:
    rows = []
    for one in inputs:
        given = one["photo"]
        assert isinstance(given, ImageInput)
        level = float(image_tensor(given.data, SPEC)[0, :4, :4].mean() * 0.25 + 0.5)
        rows.append([1 - level, level])
    return done(np.array(rows, dtype=np.float32))


def encoded(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def corner(mode: str) -> Image.Image:
    image = Image.new("L", (40, 40), 0)
    image.paste(255, (0, 0, 20, 20))
    if mode == "RGBA":
        image = image.convert("RGBA")
        image.putalpha(255)
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(image, dtype=np.uint16) * 257)
    return image if image.mode == mode else image.convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_an_image_of_any_mode_is_explained_as_the_model_sees_it(mode: str) -> None:
    request = ExplanationRequest(image=encoded(corner(mode)), label="bright")
    result = explain_classifier(request, classify=brightness, manifest=manifest(photo=SPEC))
    given = Image.open(io.BytesIO(request.image or b""))
    assert result.target.value_full == pytest.approx(
        _log_odds(float(image_tensor(encoded(given), SPEC)[0, :4, :4].mean() * 0.25 + 0.5)), abs=0.1
    )
    for unit in result.units:
        left, top, _, _ = unit.box or (0, 0, 0, 0)
        assert (unit.score > 1e-3) == (left < 20 and top < 20)
    assert result.picture_png is not None


def _log_odds(p: float) -> float:
    return math.log(max(p, 1e-30)) - math.log(max(1 - p, 1e-30))


def test_probabilities_that_underflow_stay_finite() -> None:
    def certain(inputs: Sequence[NamedInputs]) -> Answer:
        return done(np.array([[0.0, 1.0]] * len(inputs), dtype=np.float32))

    request = ExplanationRequest(text="a b c d e")
    result = explain_classifier(request, classify=certain, manifest=manifest(note=TextSpec()))
    assert math.isfinite(result.target.value_full)
    assert result.faithfulness.verdict == "untestable"


def test_the_text_goes_in_under_the_declared_name() -> None:
    seen: set[str] = set()

    def classify(inputs: Sequence[NamedInputs]) -> Answer:
        for one in inputs:
            assert isinstance(one["note"], TextInput)
            seen.update(one)
        return done(np.full((len(inputs), 2), 0.5))

    explain_classifier(
        ExplanationRequest(text="a b"), classify=classify, manifest=manifest(note=TextSpec())
    )
    assert seen == {"note"}


@pytest.mark.parametrize("inputs", [{"a": TextSpec(), "b": NumberSpec()}, {"a": NumberSpec()}, {}])
def test_models_without_one_text_or_image_are_refused(inputs: dict[str, InputSpec]) -> None:
    with pytest.raises(MethodUnsupportedError):
        explain_classifier(
            ExplanationRequest(text="a b"), classify=brightness, manifest=manifest(**inputs)
        )


@pytest.mark.parametrize("image", [b"not an image", b""])
def test_a_broken_image_is_refused_by_name(image: bytes) -> None:
    with pytest.raises(InvalidValueError) as caught:
        explain_classifier(
            ExplanationRequest(image=image), classify=brightness, manifest=manifest(photo=SPEC)
        )
    assert caught.value.param == "input.image"


def scored(logprob: Callable[[Pair], list[float]]) -> Callable[[Sequence[Pair]], Answer]:
    return lambda pairs: done([logprob(pair) for pair in pairs])


def test_the_value_of_a_text_is_summed_over_its_tokens() -> None:
    def generate(prompt: Prompt, max_tokens: int) -> str:
        return f"at most {max_tokens}"

    request = ExplanationRequest(text="why is it so then", max_output_tokens=5)
    result = explain_language(
        request, generate=generate, score=scored(lambda pair: [-1.0, -0.25, -0.5])
    )
    assert result.target.text == "at most 5"
    assert result.target.value_full == -1.75


def test_an_error_of_the_queue_is_the_error_of_the_explanation() -> None:
    def score(pairs: Sequence[Pair]) -> Answer:
        future: Answer = Future()
        future.set_exception(ShuttingDownError("the engine is shutting down."))
        return future

    with pytest.raises(PurveyError, match="shutting down"):
        explain_language(
            ExplanationRequest(text="a b", output="c"), generate=lambda p, n: "", score=score
        )


def test_a_language_model_takes_no_image() -> None:
    with pytest.raises(InvalidValueError):
        explain_language(
            ExplanationRequest(image=b"x"), generate=lambda p, n: "", score=scored(lambda _: [0.0])
        )
