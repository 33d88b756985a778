"""Join explanations to a loaded model: its scores, its classes, its pictures.

Runs in the engine process, in the one low-priority thread that explanations have. Every
question to the model goes through the same queues as everybody's, as low-priority work.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purvey.contracts.clock import Clock, SystemClock
from purvey.contracts.engine import NamedInputs, Prompt, TextPrompt, TokenPrompt
from purvey.contracts.explain import ExplanationRequest, ExplanationResult
from purvey.contracts.model import ImageSpec, ModelManifest, TextSpec
from purvey.contracts.parse import ImageDecoded
from purvey.errors import InvalidValueError, MethodUnsupportedError
from purvey.explain.image import SeenImage, explain_image_class
from purvey.explain.text import explain_generation, explain_text_class
from purvey.models.images import ImageReader

Pair = tuple[Prompt, TextPrompt | TokenPrompt]
Generate = Callable[[Prompt, int], str]
"""Greedy output of the prompt, of at most that many tokens."""
SubmitPairs = Callable[[Sequence[Pair]], Future[list[list[float]]]]
"""Log-probability of every output token, per pair."""
SubmitInputs = Callable[[Sequence[NamedInputs]], Future[list[NDArray[np.floating]]]]
"""Class probabilities, one row per input."""

SHOWN_PIXELS = 720
"""Longer side of the image that the picture is drawn from."""
SMALLEST_PROBABILITY = 1e-30
"""Keeps log-probabilities finite where float32 softmax underflows."""


def explain_language(
    request: ExplanationRequest,
    *,
    generate: Generate,
    score: SubmitPairs,
    clock: Clock | None = None,
) -> ExplanationResult:
    """Attribute an output of a language model to the words of its prompt.

    Args:
        request: What is asked; `messages` or `text`.
        generate: `Core.generate_text`, or what behaves like it.
        score: `Scorer.submit`, or what behaves like it.
        clock: Where time comes from.

    Raises:
        PurveyError: What `explain_generation` raises, and what the model's queues raise.
    """
    if request.image is not None:
        raise InvalidValueError(
            "of what a language model writes, words alone are explained.",
            param="input.image",
            hint="Give input.text or input.messages.",
        )
    model = _Language(generate, score)
    return explain_generation(request, model, clock=clock or SystemClock())


def explain_classifier(
    request: ExplanationRequest,
    *,
    classify: SubmitInputs,
    manifest: ModelManifest,
    clock: Clock | None = None,
) -> ExplanationResult:
    """Attribute a class of a text or an image to its words or patches.

    Args:
        request: What is asked; `text` or `image`.
        classify: `ClassifierBatcher.submit`, or what behaves like it.
        manifest: The classifier's labels and inputs.
        clock: Where time comes from.

    Raises:
        MethodUnsupportedError: The model has no labels, or takes other than one text or image.
        PurveyError: What the explanations raise, and what the model's queue raises.
    """
    if not manifest.labels:
        raise MethodUnsupportedError("explanations cover models with labels so far.", param="model")
    if len(manifest.inputs) != 1:
        raise MethodUnsupportedError(
            "explanations cover models with one input so far.", param="model"
        )
    (input_name, spec), time = *manifest.inputs.items(), clock or SystemClock()
    model = _Classes(classify, manifest.labels)
    if isinstance(spec, TextSpec):
        return explain_text_class(request, model, input_name=input_name, clock=time)
    if isinstance(spec, ImageSpec):
        image = _seen(request, spec)
        return explain_image_class(request, model, input_name=input_name, image=image, clock=time)
    raise MethodUnsupportedError(
        "explanations cover models of a text or an image so far.", param="model"
    )


class _Language:
    """`TextGenerator` over the engine's queues."""

    def __init__(self, generate: Generate, score: SubmitPairs) -> None:
        self._generate, self._score = generate, score

    def generate(self, prompt: Prompt, max_tokens: int) -> str:
        return self._generate(prompt, max_tokens)

    def logprob(self, prompts: Sequence[Prompt], output: str) -> list[float]:
        pairs: list[Pair] = [(prompt, TextPrompt(text=output)) for prompt in prompts]
        return [sum(tokens) for tokens in self._score(pairs).result()]


class _Classes:
    """`ClassifierModel` over the engine's batcher."""

    def __init__(self, classify: SubmitInputs, labels: Sequence[str]) -> None:
        self._classify, self.labels = classify, labels

    def log_probs(self, inputs: Sequence[NamedInputs]) -> NDArray[np.float64]:
        p_ML = np.asarray(self._classify(inputs).result(), dtype=np.float64)
        return np.log(np.maximum(p_ML, SMALLEST_PROBABILITY))


def _seen(request: ExplanationRequest, spec: ImageSpec) -> SeenImage:
    """Decode the image as the model does, once at its size and once for the picture."""
    if request.image is None:
        raise InvalidValueError(
            "this model classifies images.", param="input", hint="Give input.image."
        )
    images = ImageReader()
    size = ImageSpec(height=spec.height, width=spec.width, channels=spec.channels)
    given = images.decoded(request.image, size, param="input.image")
    shrink = min(1.0, SHOWN_PIXELS / max(given.given_width, given.given_height))
    width, height = (
        max(1, round(side * shrink)) for side in (given.given_width, given.given_height)
    )
    size_shown = ImageSpec(height=height, width=width, channels=3)
    shown = images.decoded(request.image, size_shown, param="input.image")
    return SeenImage(
        width=given.given_width,
        height=given.given_height,
        shown=Image.fromarray(_pixels(shown, size_shown)),
        pixels=_pixels(given, size),
    )


def _pixels(decoded: ImageDecoded, spec: ImageSpec) -> NDArray[np.uint8]:
    """Return `pixels_HWC` exactly as the model's own preparation sees them."""
    pixels = np.frombuffer(decoded.pixels, dtype=np.uint8)
    return pixels.reshape(spec.height, spec.width, spec.channels)
