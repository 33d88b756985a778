"""`/v1/decisions`: typed questions about an input, answered with probabilities.

A classifier answers by its own probabilities, restricted to what the question names and
renormalised. A language model answers by the likelihood of each possible answer, a model that
embeds images beside texts by how near each of them is to an image.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from purvey.contracts.engine import (
    ChatMessage,
    ChatPrompt,
    EngineClient,
    ImageInput,
    NamedInputs,
    Prompt,
    TextInput,
    TextPrompt,
)
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ImageSpec, TextSpec
from purvey.errors import InvalidValueError, MethodUnsupportedError, UnsupportedValueError
from purvey.server.media import picture
from purvey.server.metering import Tally, metered
from purvey.server.native.classify import ask
from purvey.server.openai.likelihood import likelihoods, softmax
from purvey.server.openai.pictures import seen
from purvey.server.openai.similarity import similarities
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes
from purvey.server.validation import FIRST_PROBLEM, Body

routes = Routes(tag="Decisions")
IGNORED = "Accepted and ignored."
Short = Annotated[str, Field(min_length=1, max_length=4_096)]


class InputPart(Body):
    """Text or an image of a message, or text of a question."""

    type: Literal["input_text", "input_image", "input_json", "output_text"]
    text: str | None = None
    image_url: str | None = Field(
        None, description="A base64 data URL, a file id or an https address."
    )
    data: dict[str, Any] | Annotated[list[dict[str, Any]], FIRST_PROBLEM] | None = Field(
        None, description="JSON, read as text."
    )
    detail: str | None = Field(None, description=IGNORED)
    prompt_cache_breakpoint: object = Field(None, description=IGNORED)


Parts = Annotated[list[InputPart], FIRST_PROBLEM]


class InputMessage(Body):
    """One message of the input."""

    type: Literal["message"] | None = None
    role: Literal["user", "developer", "system", "assistant"]
    content: str | Parts


class Choice(Body):
    """One possible answer; for a classifier, one of its labels."""

    value: Short | bool
    description: str | None = Field(
        None, description="What an image is compared with, instead of the value."
    )


class Level(Body):
    """One step of a scale, from low to high; for a classifier, one of its labels."""

    label: Short
    description: str | None = Field(
        None, description="What an image is compared with, instead of the label."
    )


class Question(Body):
    """A predicate, a choice or a score."""

    type: Literal["predicate", "choice", "score"]
    instructions: str | Parts
    name: Annotated[str, Field(max_length=256)] | None = None
    choices: Annotated[list[Choice], Field(min_length=2, max_length=LIMITS.choices)] | None = None
    levels: Annotated[list[Level], Field(min_length=2, max_length=LIMITS.choices)] | None = None


class DecisionRequest(Body):
    """An input and what is asked about it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "spam",
                "input": "You have won a prize, call now",
                "questions": [
                    {
                        "type": "choice",
                        "instructions": "Is it spam?",
                        "choices": [{"value": "spam"}, {"value": "ham"}],
                    }
                ],
            }
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: str | Annotated[list[InputMessage], Field(min_length=1, max_length=LIMITS.messages)]
    questions: Annotated[list[Question], Field(min_length=1, max_length=LIMITS.questions)]
    prompt_cache_key: str | None = Field(None, description=IGNORED)
    prompt_cache_options: object = Field(None, description=IGNORED)
    safety_identifier: str | None = Field(None, description=IGNORED)


class Decision(TypedDict):
    """Answers in the order of the questions."""

    answers: list[dict[str, Any]]
    model: str
    usage: dict[str, Any]


EXAMPLE: dict[str, Any] = {  # JSON values
    "answers": [
        {
            "type": "choice",
            "name": None,
            "choice": "spam",
            "confidence": 0.97,
            "probabilities": [
                {"value": "spam", "probability": 0.97},
                {"value": "ham", "probability": 0.03},
            ],
        }
    ],
    "model": "spam",
    "usage": {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    },
}


@routes.add("POST", "/v1/decisions", scope="inference", returns=Decision, example=EXAMPLE)
async def create(call: Caller, body: DecisionRequest) -> Decision:
    """Answer questions about an input with probabilities.

    For a classifier, the values of a choice and the labels of a score must be labels of the
    model, and a predicate's instructions must be one label; for a language model they may
    be anything. A model that embeds images beside texts compares one image with the
    description, or else the value, of each choice or level; it answers no predicates.
    """
    for number, question in enumerate(body.questions):
        _check_question(question, f"questions.{number}")
    return await while_present(call.request, _decided(call, body))


async def _decided(call: Call, body: DecisionRequest) -> Decision:
    async with (
        call.services.engines.use(call.project_id, body.model) as (record, engine),
        metered(call, kind="decision", model=record.name) as tally,
    ):
        if engine.model.task == "regression":
            raise MethodUnsupportedError(
                "a decision has probabilities, and this model gives a score alone.",
                param="model",
                hint="Use /v1/classify.",
            )
        if engine.model.labels:
            answers = await _by_classes(call, engine, body, tally)
        elif engine.model.similarity_scale:
            answers = await _by_similarity(call, engine, body, tally)
        else:
            given = _images(body) if record.task == "image-text-to-text" else []
            images = await seen(call, record, given)
            answers = await _by_likelihood(call, engine, body, images, tally)
        return {"answers": answers, "model": record.name, "usage": _usage(tally)}


async def _by_classes(
    call: Call, engine: EngineClient, body: DecisionRequest, tally: Tally
) -> list[dict[str, Any]]:
    for number, question in enumerate(body.questions):
        _check_labels(engine, question, f"questions.{number}")
    inputs = await _classifier_input(call, engine, body)
    row = (await ask(call, engine, [inputs], tally)).probabilities[0]
    by_label = dict(zip(engine.model.labels, row, strict=True))
    answers = []
    for question in body.questions:
        if question.type == "predicate":
            answers.append(_answer(question, [by_label[_wording(question)]]))
        else:
            given = [by_label[str(value)] for value in _values(question)]
            answers.append(_answer(question, _renormalised(given)))
    return answers


async def _by_likelihood(
    call: Call,
    engine: EngineClient,
    body: DecisionRequest,
    images: tuple[ImageInput, ...],
    tally: Tally,
) -> list[dict[str, Any]]:
    text, answers = _plain_text(body, is_strict=not images), []
    tally.images += len(images)
    for number, question in enumerate(body.questions):
        values = ["yes", "no"] if question.type == "predicate" else _values(question)
        outputs = [_spoken(engine, str(value)) for value in values]
        prompt = _prompt(engine, text, question, images)
        p = await likelihoods(
            engine,
            prompt,
            outputs,
            request_id=f"{call.request_id}-{number}",
            salt=call.project_id,
            tally=tally,
        )
        answers.append(_answer(question, p[:1] if question.type == "predicate" else p))
    return answers


async def _by_similarity(
    call: Call, engine: EngineClient, body: DecisionRequest, tally: Tally
) -> list[dict[str, Any]]:
    said: list[list[tuple[str, str]]] = []
    for number, question in enumerate(body.questions):
        if question.type == "predicate":
            raise InvalidValueError(
                "this model compares descriptions of an image, and a predicate has one.",
                param=f"questions.{number}.type",
                hint="Ask a choice between what is so and what is not.",
            )
        said.append(_descriptions(question, f"questions.{number}"))
    at, url = _only_image(body)
    image = await picture(call, url, param=at)
    texts, params = zip(*(one for some in said for one in some), strict=True)
    logits = await similarities(
        engine, image, texts, params=(at, *params), request_id=call.request_id, tally=tally
    )
    left = iter(logits)
    return [
        _answer(question, softmax([next(left) for _ in some]))
        for question, some in zip(body.questions, said, strict=True)
    ]


def _descriptions(question: Question, at: str) -> list[tuple[str, str]]:
    """Return what stands for each answer, and what a refusal calls it."""
    if question.type == "choice":
        return [
            (choice.description or str(choice.value), f"{at}.choices.{i}")
            for i, choice in enumerate(question.choices or ())
        ]
    return [
        (level.description or level.label, f"{at}.levels.{i}")
        for i, level in enumerate(question.levels or ())
    ]


def _answer(question: Question, p: Sequence[float]) -> dict[str, Any]:
    head: dict[str, Any] = {"type": question.type, "name": question.name}
    if question.type == "predicate":
        return head | {"probability": p[0]}
    best = max(range(len(p)), key=lambda i: p[i])
    if question.type == "choice":
        values = _values(question)
        listed = [{"value": v, "probability": q} for v, q in zip(values, p, strict=True)]
        return head | {"choice": values[best], "confidence": p[best], "probabilities": listed}
    levels = [
        {"label": str(label), "value": i, "probability": q}
        for i, (label, q) in enumerate(zip(_values(question), p, strict=True))
    ]
    mean = sum(i * q for i, q in enumerate(p))
    return head | {"score": mean, "confidence": p[best], "probabilities": levels}


def _values(question: Question) -> list[str | bool]:
    if question.type == "choice":
        return [choice.value for choice in question.choices or ()]
    return [level.label for level in question.levels or ()]


def _check_question(question: Question, at: str) -> None:
    wanted = {"predicate": None, "choice": "choices", "score": "levels"}[question.type]
    for name in ("choices", "levels"):
        given = getattr(question, name) is not None
        if name == wanted and not given:
            raise InvalidValueError(f"a {question.type} needs {name!r}.", param=f"{at}.{name}")
        if name != wanted and given:
            raise InvalidValueError(f"a {question.type} has no {name!r}.", param=f"{at}.{name}")
    if len(_wording(question)) > LIMITS.prompt_chars:
        raise InvalidValueError(
            f"a question is longer than {LIMITS.prompt_chars} characters.",
            param=f"{at}.instructions",
        )
    values = [(type(value), value) for value in _values(question)]
    if len(set(values)) != len(values):
        raise InvalidValueError("each answer may be named once.", param=f"{at}.{wanted}")


def _check_labels(engine: EngineClient, question: Question, at: str) -> None:
    labels = engine.model.labels
    if question.type == "predicate":
        named, field = [_wording(question)], "instructions"
    else:
        named, field = [str(value) for value in _values(question)], "choices"
        field = "choices" if question.type == "choice" else "levels"
    unknown = next((name for name in named if name not in labels), None)
    if unknown is not None:
        shown = ", ".join(repr(label) for label in labels[:20])
        raise InvalidValueError(
            f"{unknown[:100]!r} is no label of this model.",
            param=f"{at}.{field}",
            hint=f"Its labels are {shown}{' and more' if len(labels) > 20 else ''}.",
        )


def _wording(question: Question) -> str:
    return _joined(question.instructions).strip()


def _joined(content: str | list[InputPart]) -> str:
    if isinstance(content, str):
        return content
    return "".join(_part_text(part) for part in content)


def _part_text(part: InputPart) -> str:
    if part.type == "input_json":
        return json.dumps(part.data, ensure_ascii=False, separators=(",", ":"))
    return part.text or ""


async def _classifier_input(call: Call, engine: EngineClient, body: DecisionRequest) -> NamedInputs:
    if len(engine.model.inputs) != 1:
        raise MethodUnsupportedError(
            "decisions take models with one input.", param="model", hint="Use /v1/classify."
        )
    ((name, spec),) = engine.model.inputs.items()
    if isinstance(spec, ImageSpec):
        at, url = _only_image(body)
        return {name: ImageInput(data=await picture(call, url, param=at))}
    if not isinstance(spec, TextSpec):
        raise MethodUnsupportedError(
            "decisions take text or an image.", param="model", hint="Use /v1/classify."
        )
    return {name: TextInput(text=_plain_text(body))}


def _only_image(body: DecisionRequest) -> tuple[str, str]:
    """Return where the one image of an input stands, and what gives it."""
    images = _images(body)
    if len(images) != 1 or _plain_text(body, is_strict=False).strip():
        raise InvalidValueError(
            "this model takes one image: a user message with one input_image.", param="input"
        )
    return images[0]


def _images(body: DecisionRequest) -> list[tuple[str, str]]:
    if isinstance(body.input, str):
        return []
    return [
        (f"input.{i}.content.{j}.image_url", part.image_url or "")
        for i, message in enumerate(body.input)
        if not isinstance(message.content, str)
        for j, part in enumerate(message.content)
        if part.type == "input_image"
    ]


def _plain_text(body: DecisionRequest, *, is_strict: bool = True) -> str:
    if is_strict and _images(body):
        raise UnsupportedValueError(
            "this model reads text only.", param="input", hint="Ask a model that takes images."
        )
    if isinstance(body.input, str):
        text = body.input
    else:
        text = "\n".join(_joined(message.content) for message in body.input)
    if len(text) > LIMITS.prompt_chars:
        raise InvalidValueError(
            f"the input is longer than {LIMITS.prompt_chars} characters.", param="input"
        )
    return text


def _prompt(
    engine: EngineClient, text: str, question: Question, images: tuple[ImageInput, ...]
) -> Prompt:
    wording = _wording(question)
    asked = wording if images and not text.strip() else f"{text}\n\n{wording}"
    if engine.model.has_chat_template or images:  # what sees converses
        turn = ChatMessage(role="user", content=asked)
        return ChatPrompt(messages=(turn,), images=images)
    return TextPrompt(text=f"{asked}\nAnswer:")


def _spoken(engine: EngineClient, value: str) -> str:
    return value if engine.model.has_chat_template else f" {value}"


def _renormalised(p: Sequence[float]) -> list[float]:
    total = sum(p)
    return [q / total for q in p] if total > 0 else [1 / len(p)] * len(p)


def _usage(tally: Tally) -> dict[str, Any]:
    return {
        "input_tokens": tally.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tally.input_tokens,
    }
