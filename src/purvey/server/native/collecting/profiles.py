"""`/v1/datasets/{dataset_id}/profile`: what a dataset looks like, as JSON and as a page."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from purvey.contracts.records import DatasetRecord
from purvey.errors import ConflictError
from purvey.server.answers import as_json
from purvey.server.documentation import also_shown
from purvey.server.native.datasets import EXAMPLE, find, shown
from purvey.server.native.training_reports import HTML, VARIES, prefers_html
from purvey.server.policy import Caller
from purvey.server.reporting.collected.page import rendered
from purvey.server.reporting.style import POLICY
from purvey.server.routing import Routes
from purvey.server.validation import Question

routes = Routes(tag="Datasets")


class DatasetProfile(TypedDict):
    """What a dataset looks like."""

    object: Literal["dataset.profile"]
    dataset: str
    columns: list[dict[str, str]]
    labels: list[str]
    splits: dict[str, int]
    profile: dict[str, Any]
    digest: str | None


class ProfileQuery(Question):
    """In which form the profile is sent."""

    format: Literal["json", "html"] | None = Field(
        None, description="`html` for a page; unsaid, what `Accept` prefers."
    )


@routes.add(
    "GET",
    "/v1/datasets/{dataset_id}/profile",
    scope="datasets:read",
    returns=DatasetProfile,
    example={
        "dataset": EXAMPLE["id"],
        **{name: EXAMPLE[name] for name in DatasetProfile.__annotations__ if name in EXAMPLE},
        "object": "dataset.profile",
    },
    extra=also_shown(HTML, "<!doctype html>..."),
)
async def profile(
    call: Caller, request: Request, dataset_id: str, query: Annotated[ProfileQuery, Query()]
) -> Response:
    """Show how a dataset's rows are spread: balance, lengths, durations, sizes, leaks, warnings.

    With `format=html`, or where `Accept` prefers `text/html`, it is a page that stands alone, with
    histograms. 409 until the dataset is ready.
    """
    record = await find(call, dataset_id)
    if record.status != "ready":
        raise ConflictError(f"the dataset is {record.status}; its profile comes when it is ready.")
    if query.format == "html" or (query.format is None and prefers_html(request)):
        page = await asyncio.to_thread(rendered, record)
        headers = {**VARIES, "content-security-policy": POLICY}
        return Response(page, media_type=HTML, headers=headers)
    answer = as_json(_profile(record))
    answer.headers.update(VARIES)
    return answer


def _profile(record: DatasetRecord) -> DatasetProfile:
    told = shown(record)
    return {
        "object": "dataset.profile",
        "dataset": record.id,
        "columns": told["columns"],
        "labels": told["labels"],
        "splits": told["splits"],
        "profile": told["profile"],
        "digest": told["digest"],
    }
