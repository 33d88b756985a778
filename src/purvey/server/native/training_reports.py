"""`/v1/training/jobs/{job_id}/report`: the final test of a run, as JSON and as a page."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from pydantic import Field

from purvey.contracts.records import JobEventRecord, JobRecord, ModelRecord
from purvey.errors import ConflictError, NotFoundError
from purvey.server.answers import as_json
from purvey.server.documentation import also_shown
from purvey.server.job_routes import find
from purvey.server.native.training_jobs import EXAMPLE
from purvey.server.openai.files import disposition
from purvey.server.policy import Call, Caller
from purvey.server.reporting.origin import made_from
from purvey.server.reporting.page import rendered
from purvey.server.reporting.style import POLICY
from purvey.server.reporting.tensorboard import event_file
from purvey.server.reporting.values import RunReport
from purvey.server.routing import Routes
from purvey.server.validation import Question

routes = Routes(tag="Training jobs")
HTML = "text/html"
BYTES = "application/octet-stream"
VARIES = {"vary": "accept"}
_EVENTS_READ = 1_000
"""Events read at a time."""


class ReportQuery(Question):
    """In which form the report is sent."""

    format: Literal["json", "html"] | None = Field(
        None, description="`html` for a page; unsaid, what `Accept` prefers."
    )


@routes.add(
    "GET",
    "/v1/training/jobs/{job_id}/report",
    scope="training:read",
    returns=None,
    example={
        "object": "training.report",
        "job": EXAMPLE["id"],
        "model": EXAMPLE["model"],
        "metrics": EXAMPLE["report"],
        "made_from": {"recipe_digest": EXAMPLE["recipe_digest"], "dataset": EXAMPLE["dataset"]},
    },
    extra=also_shown(HTML, "<!doctype html>..."),
)
async def report(
    call: Caller, request: Request, job_id: str, query: Annotated[ReportQuery, Query()]
) -> Response:
    """Show the final test: every metric with its interval, and what the model was made from.

    With `format=html`, or where `Accept` prefers `text/html`, it is a page that stands alone:
    learning curves, the final test, confusion matrix, reliability diagram, slices, origin. 409
    until the run has succeeded.
    """
    job = await find(call, job_id, "training")
    if job.status != "succeeded":
        raise ConflictError(f"the run is {job.status}; its report comes when it has succeeded.")
    is_page = query.format == "html" or (query.format is None and prefers_html(request))
    model = await _model(call, job)
    if not is_page:
        found = RunReport(job=job, points=(), model=model)
        answer = as_json(_shown(found))
        answer.headers.update(VARIES)
        return answer
    points = [event.data for event in await _told(call, job)]
    page = await asyncio.to_thread(rendered, RunReport(job=job, points=points, model=model))
    headers = {**VARIES, "content-security-policy": POLICY}
    return Response(page, media_type=HTML, headers=headers)


@routes.add(
    "GET",
    "/v1/training/jobs/{job_id}/tensorboard",
    scope="training:read",
    returns=None,
    example="(the bytes of an event file)",
    media=BYTES,
)
async def tensorboard(call: Caller, job_id: str) -> Response:
    """Download a run's numbers as a TensorBoard event file: what it has told so far.

    Each number is a scalar under its own name. Put the file into a folder of its own below the one
    that `tensorboard --logdir` is given.
    """
    job = await find(call, job_id, "training")
    told = await _told(call, job)
    began_at = job.started_at or job.created_at
    file = await asyncio.to_thread(event_file, told, began_at=began_at)
    name = f"events.out.tfevents.{int(began_at)}.{job.id}"
    return Response(file, media_type=BYTES, headers={"content-disposition": disposition(name)})


def prefers_html(request: Request) -> bool:
    """Tell whether a request's `Accept` ranks HTML above JSON.

    Where both rank alike, HTML must be named and JSON not.
    """
    weights = _weights(",".join(request.headers.getlist("accept")))
    html = weights.get(HTML, 0.0)
    fallback = weights.get("application/*", weights.get("*/*", 0.0))
    json = weights.get("application/json", fallback)
    return html > json or (html == json > 0 and "application/json" not in weights)


def _weights(accept: str) -> dict[str, float]:
    """Return the weight of each media range; 0 where it cannot be read."""
    weights = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        told = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        is_number = told.replace(".", "", 1).isdecimal() and told.isascii()
        weights[name] = float(told) if is_number else 0.0
    return weights


def _shown(found: RunReport) -> Mapping[str, Any]:
    return {
        "object": "training.report",
        "job": found.job.id,
        "model": found.job.fine_tuned_model,
        "metrics": found.metrics,
        "made_from": made_from(found),
    }


async def _model(call: Call, job: JobRecord) -> ModelRecord | None:
    """Return the model that the run made, if it is still there under its name."""
    if job.fine_tuned_model is None:
        return None
    try:
        model = await call.services.models.get(call.project_id, job.fine_tuned_model)
    except NotFoundError:
        return None
    return model if model.job_id == job.id else None


async def _told(call: Call, job: JobRecord) -> list[JobEventRecord]:
    """Return the events with numbers that a run has told, in order."""
    told: list[JobEventRecord] = []
    after: str | None = None
    while True:
        page = await call.services.jobs.events(
            call.project_id,
            job.id,
            after=after,
            limit=_EVENTS_READ,
            order="asc",
            type="metrics",
        )
        told += page.items
        if not page.has_more:
            return told
        after = page.items[-1].id
