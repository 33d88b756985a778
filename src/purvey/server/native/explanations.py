"""`/v1/explanations`: which part of the input made the model say that, and how sure that is."""

import asyncio
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import ConfigDict, Field
from sqlalchemy import Connection
from typing_extensions import TypedDict

from purvey.contracts.explain import (
    ExplainedMessage,
    ExplanationRequest,
    Method,
    Perturbation,
    UnitKind,
)
from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import ExplanationRecord
from purvey.errors import ConflictError, InvalidValueError, NotFoundError
from purvey.server.answers import as_json
from purvey.server.documentation import another_success
from purvey.server.media import picture
from purvey.server.native.explaining import Explainer, shown
from purvey.server.openai import files
from purvey.server.paging import Listing, PageAsked, listing, listing_example
from purvey.server.policy import Call, Caller
from purvey.server.routing import Routes
from purvey.server.validation import Body
from purvey.store import explanations
from purvey.store.idempotency import answers as kept_answers

routes = Routes(tag="Explanations")
Label = Annotated[str, Field(min_length=1, max_length=1_024)]
Text = Annotated[str, Field(max_length=LIMITS.prompt_chars)]


class Turn(Body):
    """One turn of the explained conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Text


class Source(Body):
    """What was given to the model; exactly one of the three."""

    text: Text | None = None
    messages: Annotated[list[Turn], Field(min_length=1, max_length=LIMITS.messages)] | None = None
    image: str | None = Field(None, description="A data URL, a file id or an https address.")


class Output(Body):
    """The generated text to explain."""

    text: Annotated[str, Field(min_length=1, max_length=65_536)]


class Target(Body):
    """Which class to explain, and against which other."""

    label: Label | None = None
    contrast: Label | None = Field(None, description="Why `label` rather than this one.")


class Budget(Body):
    """What the explanation may cost."""

    max_forwards: Annotated[int, Field(ge=8, le=LIMITS.explanation_forwards)] = 768
    max_ms: Annotated[int, Field(ge=0, le=600_000)] | None = Field(
        None, description="How long the answer is waited for before 202."
    )


class Faithfulness(Body):
    """How the ranking is tested."""

    random_orders: Annotated[int, Field(ge=1, le=64)] = 16
    curve_points: Annotated[int, Field(ge=2, le=32)] = 8


class ExplanationBody(Body):
    """An explanation as asked for."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "spam",
                "input": {"text": "You have won a prize"},
                "target": {"label": "spam", "contrast": "ham"},
            }
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Source
    output: Output | None = Field(None, description="The model's own greedy output unless given.")
    target: Target | None = Field(None, description="The most probable class unless given.")
    method: Method = "auto"
    units: UnitKind = "auto"
    perturbation: Perturbation = "auto"
    budget: Budget = Budget()
    faithfulness: Faithfulness = Faithfulness()
    include: list[Literal["curves", "heatmap_png"]] = Field(
        ["heatmap_png"],
        max_length=2,
        description="`heatmap_png` draws images; curves are always there.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Explanation(TypedDict, total=False):
    """An attribution with its faithfulness; result fields come with `status` `completed`."""

    id: str
    object: Literal["explanation"]
    status: Literal["in_progress", "completed", "failed"]
    created: int
    model: str
    model_revision: str
    precision: str
    task: str
    method: str
    evidence: str
    target: dict[str, Any]
    units: list[dict[str, Any]]
    faithfulness: dict[str, Any]
    cost: dict[str, Any]
    warnings: list[str]
    artifacts: dict[str, str]
    usage: dict[str, Any]
    error: dict[str, Any] | None


class DeletedExplanation(TypedDict):
    """Word that an explanation is gone."""

    id: str
    object: Literal["explanation"]
    deleted: bool


EXAMPLE: dict[str, Any] = {  # JSON values
    "id": "expl_6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e",
    "object": "explanation",
    "status": "completed",
    "created": 1795467000,
    "model": "spam",
    "model_revision": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "precision": "float32",
    "task": "text-classification",
    "method": "leave_one_out",
    "evidence": "causal",
    "target": {"kind": "label", "label": "spam", "value_full": -0.03, "value_empty": -2.0},
    "units": [
        {"id": 0, "kind": "word", "modality": "text", "text": "prize", "score": 1.9, "rank": 1}
    ],
    "faithfulness": {"score": 0.86, "gap": 0.72, "p_value": 0.059, "verdict": "faithful"},
    "cost": {"forwards": 300, "compute_s": 0.2},
    "warnings": [],
    "artifacts": {},
    "usage": {"forwards": 300, "compute_ms": 200.0},
    "error": None,
}
UNFINISHED = EXAMPLE | {"status": "in_progress", "units": [], "faithfulness": None}


@routes.add(
    "POST",
    "/v1/explanations",
    scope="explanations:write",
    returns=Explanation,
    example=EXAMPLE,
    is_creating=True,
    extra={
        "responses": {
            "202": another_success(
                "Still in progress; fetch it by its id.", UNFINISHED, schema="Explanation"
            )
        }
    },
)
async def create(call: Caller, body: ExplanationBody) -> Response:
    """Explain an output: 200 with the result, or 202 when it takes longer than `max_ms`.

    Repeated under its `Idempotency-Key`, it is answered with what is known by then: 202, or 200
    with the result. One that has failed is computed anew.
    """
    explainer: Explainer = call.request.app.state.explainer
    explainer.require_room()
    served = await call.services.deployments.directory.served(call.project_id, body.model)
    record = served.record
    request = await _request(call, body)
    now = call.services.clock.now()
    explanation = ExplanationRecord(
        id=new_id("expl_"),
        project_id=call.project_id,
        model=body.model,
        status="in_progress",
        created_at=now,
        body=_head(record.name, record.digest),
    )
    task = await explainer.start(call, explanation, request)
    max_ms = body.budget.max_ms
    wait_s = (call.services.defaults.default_explanation_ms if max_ms is None else max_ms) / 1e3
    done, _ = await asyncio.wait({task}, timeout=wait_s)
    if not done:
        return as_json(shown(explanation), status=202)
    return as_json(shown(task.result()))


@routes.add(
    "GET",
    "/v1/explanations",
    scope="explanations:read",
    returns=Listing,
    example=listing_example(EXAMPLE),
)
async def index(call: Caller, query: PageAsked) -> Listing:
    """List explanations, newest first."""
    page = await call.services.database.read(
        lambda conn: explanations.page(
            conn, call.project_id, after=query.after, limit=query.limit, order=query.order
        )
    )
    return listing([shown(record) for record in page.items], has_more=page.has_more)


@routes.add(
    "GET",
    "/v1/explanations/{explanation_id}",
    scope="explanations:read",
    returns=Explanation,
    example=EXAMPLE,
)
async def retrieve(call: Caller, explanation_id: str) -> dict[str, Any]:
    """Show an explanation."""
    return shown(await _find(call, explanation_id))


@routes.add(
    "DELETE",
    "/v1/explanations/{explanation_id}",
    scope="explanations:write",
    returns=DeletedExplanation,
    example={"id": EXAMPLE["id"], "object": "explanation", "deleted": True},
)
async def delete(call: Caller, explanation_id: str) -> DeletedExplanation:
    """Delete an explanation and its picture; 409 while it is being computed."""
    record = await _find(call, explanation_id)
    if record.status == "in_progress":
        raise ConflictError("the explanation is still being computed.")
    await call.services.database.write(lambda conn: _delete(conn, call, explanation_id))
    if record.picture_file is not None:
        with suppress(NotFoundError):  # its owner may have deleted it as a file
            await files.remove(call, await files.find(call, record.picture_file))
    return {"id": explanation_id, "object": "explanation", "deleted": True}


def _delete(conn: Connection, call: Call, explanation_id: str) -> None:
    explanations.delete(conn, call.project_id, explanation_id)
    kept_answers.forget(conn, call.project_id, explanation_id)  # it holds the same words


async def _find(call: Call, explanation_id: str) -> ExplanationRecord:
    return await call.services.database.read(
        lambda conn: explanations.get(conn, call.project_id, explanation_id)
    )


async def _request(call: Call, body: ExplanationBody) -> ExplanationRequest:
    source, target = body.input, body.target or Target()
    given = [name for name in ("text", "messages", "image") if getattr(source, name) is not None]
    if len(given) != 1:
        raise InvalidValueError("give one of 'text', 'messages', 'image'.", param="input")
    if target.contrast is not None and target.contrast == target.label:
        raise InvalidValueError("the contrast must be another label.", param="target.contrast")
    turns = tuple(ExplainedMessage(role=t.role, content=t.content) for t in source.messages or ())
    if sum(len(turn.content) for turn in turns) > LIMITS.prompt_chars:
        raise InvalidValueError(
            f"the messages have more than {LIMITS.prompt_chars} characters.",
            param="input.messages",
        )
    image = source.image
    return ExplanationRequest(
        messages=turns or None,
        text=source.text,
        image=await picture(call, image, param="input.image") if image is not None else None,
        output=body.output.text if body.output is not None else None,
        label=target.label,
        contrast=target.contrast,
        method=body.method,
        units=body.units,
        perturbation=body.perturbation,
        random_orders=body.faithfulness.random_orders,
        curve_points=body.faithfulness.curve_points,
        max_forwards=body.budget.max_forwards,
        wants_picture="heatmap_png" in body.include,
        seed=body.seed,
    )


def _head(name: str, digest: str) -> dict[str, Any]:
    return {"model": name, "model_revision": f"sha256:{digest}"}
