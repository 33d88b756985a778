"""What resources of jobs share: listing, events as a list and as a stream, checkpoints, actions."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Query, Response
from pydantic import Field

from purvey.contracts.hugging_face import DECODERS
from purvey.contracts.jobs import TERMINAL, JobApi
from purvey.contracts.records import CheckpointRecord, JobEventRecord, JobRecord, ModelRecord
from purvey.errors import MethodUnsupportedError, NotFoundError, PurveyError
from purvey.registry.upstream_models import require_here
from purvey.server.answers import as_json
from purvey.server.documentation import also_streamed
from purvey.server.paging import Listing, PageAsked, PageQuery, listing, listing_example
from purvey.server.policy import Call, Caller
from purvey.server.presence import EventStream
from purvey.server.problems import envelope
from purvey.server.routing import Endpoint, Routes
from purvey.server.sse import data

logger = logging.getLogger(__name__)
DONE = b"event: done\ndata: {}\n\n"
_encode = msgspec.json.Encoder().encode
_EXAMPLE = JobEventRecord(
    id="ftevent-0d9c8f7a6e6f1c9a0e5b7d4c2f8a3e1b",
    job_id="",
    seq=7,
    type="metrics",
    level="info",
    message="Step 120/400",
    data={"step": 120, "total_steps": 400, "train_loss": 0.41, "seconds_left": 35.0},
    created_at=1795467020.0,
)

Action = Literal["cancel", "pause", "resume"]


class EventsQuery(PageQuery):
    """Which events, and how they are sent."""

    limit: Annotated[int, Field(ge=1, le=1_000)] = Field(20, description="Items at most.")
    stream: bool = Field(
        False, description="Send events as they come (SSE) until the job has ended."
    )


@dataclass(frozen=True, kw_only=True)
class JobResource:
    """Jobs of one kind as a resource, whose routes are added one by one, each with its promise.

    Args:
        routes: Where they are added.
        root: Path of the listing.
        api: Whose jobs these are.
        shown: Shows a record.
        returns: What it is shown as.
        example: One, for the documentation.
    """

    routes: Routes
    root: str
    api: JobApi
    shown: Callable[[JobRecord], Any]  # a TypedDict, each resource's own
    returns: Any
    example: dict[str, Any]

    def add_listing(self, promise: str) -> None:
        """Add the listing."""

        async def index(call: Caller, query: PageAsked) -> Listing:
            page = await call.services.jobs.page(
                call.project_id,
                api=self.api,
                after=query.after,
                limit=query.limit,
                order=query.order,
            )
            return listing([self.shown(job) for job in page.items], has_more=page.has_more)

        self._add("GET", "", index, promise, returns=Listing, example=listing_example(self.example))

    def add_showing(self, promise: str) -> None:
        """Add one job by its id."""

        async def retrieve(call: Caller, job_id: str) -> Any:  # noqa: ANN401 (as `shown`)
            return self.shown(await find(call, job_id, self.api))

        self._add("GET", "/{job_id}", retrieve, promise)

    def add_events(self, promise: str) -> None:
        """Add what a job has told."""

        async def events(
            call: Caller, job_id: str, query: Annotated[EventsQuery, Query()]
        ) -> Response:
            return await send_events(call, await find(call, job_id, self.api), query)

        self._add_told(events, promise)

    def add_metrics(self, promise: str) -> None:
        """Add its numbers, which are events too."""

        async def metrics(
            call: Caller, job_id: str, query: Annotated[EventsQuery, Query()]
        ) -> Response:
            job = await find(call, job_id, self.api)
            return await send_events(call, job, query, only="metrics")

        self._add_told(metrics, promise)

    def add_checkpoints(self, promise: str) -> None:
        """Add what it would resume from."""

        async def checkpoints(call: Caller, job_id: str, query: PageAsked) -> Listing:
            job = await find(call, job_id, self.api)
            page = await call.services.jobs.checkpoints(
                call.project_id, job.id, after=query.after, limit=query.limit, order=query.order
            )
            data = [checkpoint_shown(record, self.api) for record in page.items]
            return listing(data, has_more=page.has_more)

        record = CheckpointRecord(
            id="ftckpt_0d9c8f7a6e6f1c9a0e5b7d4c2f8a3e1b",
            job_id=self.example["id"],
            step=120,
            folder="",
            digest="",
            metrics={"train_loss": 0.41, "valid_loss": 0.45},
            created_at=1795467020.0,
        )
        example = listing_example(checkpoint_shown(record, self.api))
        path = "/{job_id}/checkpoints"
        self._add("GET", path, checkpoints, promise, returns=Listing, example=example)

    def add_action(self, action: Action, promise: str) -> None:
        """Add a way to steer it."""

        async def act(call: Caller, job_id: str) -> Any:  # noqa: ANN401 (as `shown`)
            return self.shown(await steer(call, job_id, action, self.api))

        act.__name__ = action
        self._add("POST", f"/{{job_id}}/{action}", act, promise, scope="training:write")

    def _add_told(self, endpoint: Endpoint, promise: str) -> None:
        self._add(
            "GET",
            f"/{{job_id}}/{endpoint.__name__}",
            endpoint,
            promise,
            returns=Listing,
            example=listing_example(event_shown(_EXAMPLE, self.api)),
            extra=also_streamed((_framed(_EXAMPLE, self.api) + DONE).decode()),
        )

    def _add(
        self,
        method: str,
        path: str,
        endpoint: Endpoint,
        promise: str,
        *,
        scope: Literal["training:read", "training:write"] = "training:read",
        returns: Any = None,  # noqa: ANN401 (as `Routes.add`)
        example: object = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        endpoint.__doc__ = promise
        self.routes.add(
            method,
            f"{self.root}{path}",
            scope=scope,
            returns=returns or self.returns,
            example=example or self.example,
            extra=extra,
        )(endpoint)


async def find(call: Call, job_id: str, api: JobApi) -> JobRecord:
    """Return a job of the caller's project and of this resource.

    Raises:
        NotFoundError: No such job here, or another project's.
    """
    job = await call.services.jobs.get(call.project_id, job_id)
    if job.api != api:
        raise NotFoundError(f"no job {job_id!r}.", param="job_id")
    return job


async def steer(call: Call, job_id: str, action: Action, api: JobApi) -> JobRecord:
    """Cancel, pause or resume a job of one resource.

    Raises:
        NotFoundError: No such job, or another project's, or another resource's.
        ConflictError: Its state does not allow it.
    """
    await find(call, job_id, api)
    jobs = call.services.jobs
    match action:
        case "pause":
            return await jobs.pause(call.project_id, job_id)
        case "resume":
            return await jobs.resume(call.project_id, job_id)
        case "cancel":
            return await cancel(call, job_id)


async def cancel(call: Call, job_id: str) -> JobRecord:
    """End a job; what a waiting one has left on the disk goes, as its worker's end does else.

    Raises:
        NotFoundError: No such job, or another project's.
        ConflictError: It has ended.
    """
    job = await call.services.jobs.cancel(call.project_id, job_id)
    if job.status in TERMINAL:
        await call.services.sweeper.collect_work(job_id)
    return job


async def send_events(
    call: Call,
    job: JobRecord,
    query: EventsQuery,
    *,
    only: Literal["message", "metrics"] | None = None,
) -> Response:
    """Answer with a page of events, or with a stream of all of them, of one type if `only`."""
    if query.stream:
        return EventStream(_followed(call, job, only))
    page = await call.services.jobs.events(
        call.project_id,
        job.id,
        after=query.after,
        limit=query.limit,
        order=query.order,
        type=only,
    )
    shown = [event_shown(event, job.api) for event in page.items]
    return as_json(listing(shown, has_more=page.has_more))


async def _followed(call: Call, job: JobRecord, only: str | None) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(call.services.jobs.follow(call.project_id, job.id)) as events:
            async for event in events:
                if only in {None, event.type}:
                    yield _framed(event, job.api)
    except PurveyError as error:
        logger.warning("stream.failed", extra={"job_id": job.id, "code": error.code})
        yield data(envelope(error))
        return
    yield DONE


def _framed(event: JobEventRecord, api: JobApi) -> bytes:
    return b"event: job.event\ndata: " + _encode(event_shown(event, api)) + b"\n\n"


def event_shown(event: JobEventRecord, api: JobApi) -> dict[str, Any]:
    """Show an event in OpenAI's shape."""
    prefix = "fine_tuning" if api == "fine_tuning" else "training"
    return {
        "id": event.id,
        "object": f"{prefix}.job.event",
        "created_at": int(event.created_at),
        "level": event.level,
        "message": event.message,
        "type": event.type,
        "data": event.data,
    }


def checkpoint_shown(record: CheckpointRecord, api: JobApi) -> dict[str, Any]:
    """Show a checkpoint in OpenAI's shape."""
    prefix = "fine_tuning" if api == "fine_tuning" else "training"
    metrics = {k: v for k, v in record.metrics.items() if k != "step"}
    return {
        "id": record.id,
        "object": f"{prefix}.job.checkpoint",
        "created_at": int(record.created_at),
        "fine_tuned_model_checkpoint": f"{record.job_id}:step-{record.step}",
        "fine_tuning_job_id": record.job_id,
        "metrics": {"step": record.step, **metrics},
        "step_number": record.step,
    }


def require_gradients(base: ModelRecord, *, param: str) -> None:
    """Make sure that a model can be trained further.

    Raises:
        MethodUnsupportedError: It is only served: through `transformers`, or by another server.
    """
    require_here(base)
    if base.family == "transformers":
        raise MethodUnsupportedError(
            f"the model {base.name!r} is computed by transformers: it is served, and not trained.",
            param=param,
            hint=f"Models that are trained have a model_type of {', '.join(DECODERS)}.",
        )
