"""`/v1/usage`: sums over the project's append-only ledger."""

from typing import Annotated, Literal

import msgspec
from fastapi import Query
from pydantic import Field
from typing_extensions import TypedDict

from purvey.server.policy import Caller
from purvey.server.routing import Routes
from purvey.server.validation import Question

routes = Routes(tag="Usage")
Moment = Annotated[float, Field(ge=0, le=2**40, allow_inf_nan=False)]


class UsageQuery(Question):
    """Which rows are summed, and how they are grouped."""

    by: Literal["model", "kind", "day"] = Field("model", description="What a group is.")
    since: Moment | None = Field(None, description="Epoch seconds; rows from then on.")
    until: Moment | None = Field(None, description="Epoch seconds; rows before then.")


class Total(TypedDict):
    """Sums of one group; in `estimated_requests` of them tokens are estimated, not counted."""

    group: str
    requests: int
    estimated_requests: int
    input_tokens: int
    output_tokens: int
    images: int
    audio_s: float
    rows: int
    compute_s: float


class Usage(TypedDict):
    """Sums of every group."""

    object: Literal["usage"]
    data: list[Total]


EXAMPLE = {
    "object": "usage",
    "data": [
        {
            "group": "chat",
            "requests": 12,
            "estimated_requests": 0,
            "input_tokens": 340,
            "output_tokens": 512,
            "images": 0,
            "audio_s": 0.0,
            "rows": 0,
            "compute_s": 1.25,
        }
    ],
}


@routes.add("GET", "/v1/usage", scope="usage:read", returns=Usage, example=EXAMPLE)
async def totals(call: Caller, query: Annotated[UsageQuery, Query()]) -> dict[str, object]:
    """Sum the project's usage by model, kind or day."""
    found = await call.services.meter.summary(
        call.project_id, since=query.since, until=query.until, by=query.by
    )
    return {"object": "usage", "data": [msgspec.to_builtins(total) for total in found]}
