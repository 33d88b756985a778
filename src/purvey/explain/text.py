"""Explain generated text and text classes: words are deleted, the target's value is watched."""

from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np

from purvey.contracts.clock import Clock
from purvey.contracts.engine import ChatMessage, ChatPrompt, Prompt, TextInput, TextPrompt
from purvey.contracts.explain import ExplanationRequest, ExplanationResult, ExplanationTarget
from purvey.errors import InvalidValueError, MethodUnsupportedError
from purvey.explain.assemble import Case, investigate, result_of
from purvey.explain.labels import LabelTarget
from purvey.explain.subject import (
    ClassifierModel,
    Masks,
    Subject,
    TextGenerator,
    ValueFunction,
    Values,
)
from purvey.explain.wording import BLANK, PLAIN, Wording, wording_of

Describe = Callable[[float, float], ExplanationTarget]


def explain_generation(
    request: ExplanationRequest, model: TextGenerator, *, clock: Clock
) -> ExplanationResult:
    """Attribute an output of a language model to the words of its prompt.

    Only system and user turns are perturbed. The value is the log-probability of the whole
    output text; without `output` the model's own greedy output is taken.

    Raises:
        InvalidValueError: Nothing to perturb, an empty output, or a budget too small.
        MethodUnsupportedError: A method, unit or target that text generation does not have.
    """
    if request.label is not None or request.contrast is not None:
        raise MethodUnsupportedError(
            "a text generation model has no labels.", param="target", hint="Give output.text."
        )
    wording = wording_of(request)
    prompt_of = _prompts(request)
    output = request.output
    if output is None:
        output = model.generate(prompt_of(wording.texts), request.max_output_tokens)
        # The length limit may cut a character in two; its stand-in is nothing the model said.
        output = output.rstrip("\ufffd")
    if not output:
        raise InvalidValueError(
            "the output to explain is empty.", param="output", hint="Give output.text."
        )
    explained = output

    def value(keep_MA: Masks) -> Values:
        prompts = [prompt_of(wording.kept(keep_A)) for keep_A in keep_MA]
        return np.asarray(model.logprob(prompts, explained), dtype=np.float64)

    def describe(full: float, empty: float) -> ExplanationTarget:
        return ExplanationTarget(
            kind="sequence", value_full=full, value_empty=empty, unit="logprob", text=explained
        )

    return _explain("text-generation", request, wording, value, describe, clock)


def explain_text_class(
    request: ExplanationRequest, model: ClassifierModel, *, input_name: str, clock: Clock
) -> ExplanationResult:
    """Attribute a class of a text to its words.

    Raises:
        InvalidValueError: No text, an unknown label, or a budget too small.
        MethodUnsupportedError: A method or unit that text does not have.
    """
    if request.text is None or request.output is not None:
        raise InvalidValueError(
            "this model classifies text.",
            param="input" if request.text is None else "output",
            hint="Give input.text, and target.label if another class than the first is meant.",
        )
    wording = wording_of(request)
    aim = LabelTarget.chosen(request, model, {input_name: TextInput(text=request.text)})

    def value(keep_MA: Masks) -> Values:
        texts = [wording.kept(keep_A)[PLAIN] or BLANK for keep_A in keep_MA]
        return aim.values(model.log_probs([{input_name: TextInput(text=t)} for t in texts]))

    return _explain("text-classification", request, wording, value, aim.description, clock)


def _explain(
    task: Literal["text-generation", "text-classification"],
    request: ExplanationRequest,
    wording: Wording,
    value: ValueFunction,
    describe: Describe,
    clock: Clock,
) -> ExplanationResult:
    case = Case(
        task=task,
        method="leave_one_out",
        perturbation="delete",
        roots=wording.units(request.units),
        target=describe,
        text_of=wording.text_of,
    )
    subject = Subject(num_atoms=wording.num_atoms, value=value)
    return result_of(investigate(subject, case, request, clock=clock), case, picture_png=None)


def _prompts(request: ExplanationRequest) -> Callable[[dict[int, str]], Prompt]:
    if request.messages is None:
        return lambda texts: TextPrompt(text=texts[PLAIN] or BLANK)
    turns = [ChatMessage(role=m.role, content=m.content) for m in request.messages]

    def prompt(texts: dict[int, str]) -> Prompt:
        changed = (
            msgspec.structs.replace(turn, content=texts.get(number, turn.content))
            for number, turn in enumerate(turns)
        )
        return ChatPrompt(messages=tuple(changed))

    return prompt
