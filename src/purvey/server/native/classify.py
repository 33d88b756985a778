"""`/v1/classify`: any input in, labels with probabilities out."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from purvey.contracts.engine import (
    Classified,
    Classify,
    EngineClient,
    Explain,
    ImageInput,
    NamedInputs,
    NumberInput,
    PlainInput,
    TextInput,
)
from purvey.contracts.explain import ExplanationRequest
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ImageSpec, InputSpec, NumberSpec, TextSpec
from purvey.contracts.records import ModelRecord
from purvey.errors import InvalidValueError, MethodUnsupportedError
from purvey.server.metering import Tally, metered
from purvey.server.native.explaining import result_shown
from purvey.server.pictures import picture
from purvey.server.policy import Call, Caller
from purvey.server.routing import Routes
from purvey.server.validation import Body

routes = Routes(tag="Classify")
FORMS = frozenset({"text", "image"})
Given = str | int | float | dict[str, Any]


class ClassifyRequest(Body):
    """One input or many; exactly one of the two."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"model": "spam", "input": "You have won a prize"}}
    )

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Given | None = Field(
        None,
        description="Text, a number, `{'text'}`, `{'image'}` (data URL or file id), or inputs "
        "by the names that the model declares.",
    )
    inputs: (
        Annotated[list[Given], Field(min_length=1, max_length=LIMITS.classify_inputs)] | None
    ) = None
    top_k: Annotated[int, Field(ge=1, le=LIMITS.labels)] | None = Field(
        None, description="Labels reported; all unless given."
    )
    explain: bool = Field(
        False, description="Attribute each answer to its input; for models of one text or image."
    )


class LabelProbability(TypedDict):
    """A label with its probability."""

    label: str
    probability: float


class Result(TypedDict):
    """The classes of one input, the most probable first."""

    label: str
    probabilities: list[LabelProbability]
    calibrated: bool
    explanation: NotRequired[dict[str, Any]]


class Classification(TypedDict):
    """The classes of all inputs."""

    object: Literal["classification"]
    model: str
    results: list[Result]
    usage: dict[str, Any]


EXAMPLE: dict[str, Any] = {  # JSON values
    "object": "classification",
    "model": "spam",
    "results": [
        {
            "label": "spam",
            "probabilities": [
                {"label": "spam", "probability": 0.97},
                {"label": "ham", "probability": 0.03},
            ],
            "calibrated": True,
        }
    ],
    "usage": {"inputs": 1, "compute_ms": 0.4},
}


@routes.add("POST", "/v1/classify", scope="inference", returns=Classification, example=EXAMPLE)
async def classify(call: Caller, body: ClassifyRequest) -> Classification:
    """Classify one input or many."""
    given = _given(body)
    async with (
        call.services.engines.use(call.project_id, body.model) as (record, engine),
        metered(call, kind="classify", model=record.name) as tally,
    ):
        check_classifies(engine, record)
        one = body.inputs is None
        inputs = [
            await named_inputs(call, engine, value, param="input" if one else f"inputs.{i}")
            for i, value in enumerate(given)
        ]
        answer = await ask(call, engine, inputs, tally)
        results = [_result(engine, row, body.top_k) for row in answer.probabilities]
        if body.explain:
            for named, result in zip(inputs, results, strict=True):
                result["explanation"] = await _explained(call, engine, named, result, tally)
        return {
            "object": "classification",
            "model": record.name,
            "results": results,
            "usage": {"inputs": len(inputs), "compute_ms": answer.compute_s * 1e3},
        }


def check_classifies(engine: EngineClient, record: ModelRecord) -> None:
    """Make sure that a model has labels.

    Raises:
        MethodUnsupportedError: It generates text instead.
    """
    if not engine.model.labels:
        raise MethodUnsupportedError(
            f"the model {record.name!r} is for {engine.model.task} and has no labels.",
            param="model",
            hint="Use /v1/chat/completions, or /v1/decisions, which language models answer too.",
        )


async def ask(
    call: Call, engine: EngineClient, inputs: Sequence[NamedInputs], tally: Tally
) -> Classified:
    """Classify and count what it took."""
    answer = await engine.classify(Classify(request_id=call.request_id, inputs=tuple(inputs)))
    plain = [value for named in inputs for value in named.values()]
    tally.rows = len(inputs)
    tally.images = sum(isinstance(value, ImageInput) for value in plain)
    tally.compute_s = answer.compute_s
    return answer


async def named_inputs(
    call: Call, engine: EngineClient, given: Given, *, param: str
) -> NamedInputs:
    """Turn one given input into inputs by the names that the model declares.

    Raises:
        InvalidValueError: A form or a name that the model does not take.
    """
    specs = engine.model.inputs
    if isinstance(given, dict) and _is_by_name(given, specs):
        if set(given) != set(specs):
            raise _other_names(specs, param)
        return {
            name: await _plain(call, given[name], spec, param=f"{param}.{name}")
            for name, spec in specs.items()
        }
    if len(specs) != 1:
        raise _other_names(specs, param)
    ((name, spec),) = specs.items()
    return {name: await _plain(call, given, spec, param=param)}


def _is_by_name(given: dict[str, Any], specs: Mapping[str, InputSpec]) -> bool:
    """Tell inputs by name from one `{"text"}` or `{"image"}`, for names of that spelling too."""
    if not FORMS.issuperset(given):
        return True
    is_one_form = len(specs) == 1 and not any(isinstance(v, dict) for v in given.values())
    return set(given) == set(specs) and not is_one_form


def _other_names(specs: Mapping[str, InputSpec], param: str) -> InvalidValueError:
    return InvalidValueError(f"the model takes the inputs {', '.join(specs)}.", param=param)


def _given(body: ClassifyRequest) -> list[Given]:
    if (body.input is None) == (body.inputs is None):
        raise InvalidValueError("give either 'input' or 'inputs'.", param="input")
    return list(body.inputs) if body.inputs is not None else [body.input]  # type: ignore[list-item]  # one is given


async def _plain(call: Call, given: object, spec: InputSpec, *, param: str) -> PlainInput:
    match given, spec:
        case str(image), ImageSpec():
            return ImageInput(data=await picture(call, image, param=param))
        case {"image": str(image), **rest}, ImageSpec() if not rest:
            return ImageInput(data=await picture(call, image, param=f"{param}.image"))
        case str(text), TextSpec():
            return _text(text, param)
        case {"text": str(text), **rest}, TextSpec() if not rest:
            return _text(text, param)
        case int() | float() as number, NumberSpec() if _is_finite(number):
            return NumberInput(value=float(number))
        case _:
            raise InvalidValueError(f"the model takes {_taken(spec)} here.", param=param)


def _is_finite(number: float) -> bool:
    """Tell numbers from true, false, and integers that no float holds."""
    try:
        return not isinstance(number, bool) and math.isfinite(number)
    except OverflowError:
        return False


def _taken(spec: InputSpec) -> str:
    match spec:
        case ImageSpec():
            return "{'image'}, a base64 data URL or the id of a file,"
        case TextSpec():
            return "a text or {'text'}"
        case NumberSpec():
            return "a number"


async def _explained(
    call: Call, engine: EngineClient, named: NamedInputs, result: Result, tally: Tally
) -> dict[str, Any]:
    match tuple(named.values()):
        case (TextInput(text=text),):
            request = ExplanationRequest(text=text, label=result["label"])
        case (ImageInput(data=image),):
            request = ExplanationRequest(image=image, label=result["label"], wants_picture=False)
        case _:
            raise MethodUnsupportedError(
                "only answers about one text or one image can be explained.", param="explain"
            )
    answer = await engine.explain(Explain(request_id=call.request_id, request=request))
    tally.compute_s += answer.result.cost.compute_s
    return result_shown(answer.result)


def _text(text: str, param: str) -> TextInput:
    if len(text) > LIMITS.prompt_chars:
        raise InvalidValueError(
            f"the text is longer than {LIMITS.prompt_chars} characters.", param=param
        )
    return TextInput(text=text)


def _result(engine: EngineClient, row: Sequence[float], top_k: int | None) -> Result:
    ranked = sorted(zip(engine.model.labels, row, strict=True), key=lambda pair: -pair[1])
    return {
        "label": ranked[0][0],
        "probabilities": [{"label": n, "probability": p} for n, p in ranked[:top_k]],
        "calibrated": engine.model.is_calibrated,
    }
