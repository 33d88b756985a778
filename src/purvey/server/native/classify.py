"""`/v1/classify`: any input in, labels with probabilities out, or a score."""

from collections.abc import Sequence
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
    TextInput,
)
from purvey.contracts.explain import ExplanationRequest
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import ModelRecord
from purvey.errors import InvalidValueError, MethodUnsupportedError
from purvey.server.metering import Tally, metered
from purvey.server.native.explaining import result_shown
from purvey.server.native.inputs import Given, batches
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes
from purvey.server.validation import Body

routes = Routes(tag="Classify")


class ClassifyRequest(Body):
    """One input or many; exactly one of the two."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"model": "spam", "input": "You have won a prize"}}
    )

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Given | None = Field(
        None,
        description="Text, a number, `{'text'}`, `{'image'}` or `{'audio'}` (data URL, file id, "
        "https address), or inputs by the names that the model declares.",
    )
    inputs: (
        Annotated[list[Given], Field(min_length=1, max_length=LIMITS.classify_inputs)] | None
    ) = None
    top_k: Annotated[int, Field(ge=1, le=LIMITS.labels)] | None = Field(
        None, description="Labels reported; all unless given. For models that have labels."
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


class Scored(TypedDict):
    """The score of one input, by a model for regression."""

    score: float


class Classification(TypedDict):
    """The classes, or the scores, of all inputs."""

    object: Literal["classification"]
    model: str
    results: list[Result | Scored]
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
    """Classify one input or many; a model for regression gives each a score."""
    return await while_present(call.request, _classified(call, body, _given(body)))


async def _classified(call: Call, body: ClassifyRequest, given: list[Given]) -> Classification:
    params = ["input"] if body.inputs is None else [f"inputs.{i}" for i in range(len(given))]
    results: list[Result | Scored] = []
    compute_s = 0.0
    async with (
        call.services.engines.use(call.project_id, body.model) as (record, engine),
        metered(call, kind="classify", model=record.name) as tally,
    ):
        check_classifies(engine, record)
        _check_wanted(engine, body)
        async for batch in batches(call, engine, given, params=params):
            answer = await ask(call, engine, batch, tally)
            compute_s += answer.compute_s
            if engine.model.task == "regression":
                results.extend(Scored(score=score) for score in answer.scores)
                continue
            for named, row in zip(batch, answer.probabilities, strict=True):
                result = _result(engine, row, body.top_k)
                if body.explain:
                    result["explanation"] = await _explained(call, engine, named, result, tally)
                results.append(result)
        return {
            "object": "classification",
            "model": record.name,
            "results": results,
            "usage": {"inputs": len(given), "compute_ms": compute_s * 1e3},
        }


def check_classifies(engine: EngineClient, record: ModelRecord) -> None:
    """Make sure that a model gives labels or a score.

    Raises:
        MethodUnsupportedError: It generates text instead, or gives vectors.
    """
    if not engine.model.labels and engine.model.task != "regression":
        raise MethodUnsupportedError(
            f"the model {record.name!r} is for {engine.model.task} and has no labels.",
            param="model",
            hint="Use /v1/chat/completions, or /v1/decisions, which language models answer too.",
        )


def _check_wanted(engine: EngineClient, body: ClassifyRequest) -> None:
    """Refuse what needs labels of a model without any."""
    if engine.model.labels:
        return
    if body.top_k is not None:
        raise InvalidValueError("this model gives a score; it has no labels.", param="top_k")
    if body.explain:
        raise MethodUnsupportedError("only labels are explained so far.", param="explain")


async def ask(
    call: Call, engine: EngineClient, inputs: Sequence[NamedInputs], tally: Tally
) -> Classified:
    """Classify and count what it took."""
    answer = await engine.classify(Classify(request_id=call.request_id, inputs=tuple(inputs)))
    plain = [value for named in inputs for value in named.values()]
    tally.rows += len(inputs)
    tally.images += sum(isinstance(value, ImageInput) for value in plain)
    tally.compute_s += answer.compute_s
    return answer


def _given(body: ClassifyRequest) -> list[Given]:
    if (body.input is None) == (body.inputs is None):
        raise InvalidValueError("give either 'input' or 'inputs'.", param="input")
    return list(body.inputs) if body.inputs is not None else [body.input]  # type: ignore[list-item]  # one is given


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


def _result(engine: EngineClient, row: Sequence[float], top_k: int | None) -> Result:
    ranked = sorted(zip(engine.model.labels, row, strict=True), key=lambda pair: -pair[1])
    return {
        "label": ranked[0][0],
        "probabilities": [{"label": n, "probability": p} for n, p in ranked[:top_k]],
        "calibrated": engine.model.is_calibrated,
    }
