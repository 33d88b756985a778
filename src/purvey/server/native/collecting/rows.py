"""`/v1/datasets/{dataset_id}/rows`: the first rows of a split, page by page."""

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Query
from pydantic import Field
from typing_extensions import TypedDict

from purvey.contracts.limits import LIMITS
from purvey.errors import ConflictError, IntegrityError, InvalidValueError, NotFoundError
from purvey.server.native.datasets import find, shown
from purvey.server.paging import Limit
from purvey.server.policy import Caller
from purvey.server.routing import Routes
from purvey.server.validation import Question
from purvey.store.artifacts import Artifacts
from purvey.telemetry import alarms

routes = Routes(tag="Datasets")
PREVIEW_NAME = "preview.json"


class RowsQuery(Question):
    """Which rows are shown."""

    split: Literal["train", "validation", "test"] = "train"
    limit: Limit = Field(20, description="Rows at most.")
    offset: Annotated[int, Field(ge=0, le=LIMITS.dataset_rows)] = Field(
        0, description="Rows of the split that are passed over."
    )


class RowList(TypedDict):
    """Rows of a split; `has_more` while more can be shown, `total` counts the split's."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    total: int
    has_more: bool


@routes.add(
    "GET",
    "/v1/datasets/{dataset_id}/rows",
    scope="datasets:read",
    returns=RowList,
    example={
        "object": "list",
        "data": [{"text": "Where is my parcel?", "label": "delivery"}],
        "total": 320,
        "has_more": True,
    },
)
async def rows(call: Caller, dataset_id: str, query: Annotated[RowsQuery, Query()]) -> RowList:
    """Show rows of a split, in the files' order.

    The first 1,000 are kept for showing, fewer where they are large; long texts are cut, and large
    images and recordings are null.
    """
    record = await find(call, dataset_id)
    if record.artifact is None:
        raise ConflictError(f"the dataset is {record.status}; it has no rows to show.")
    try:
        preview = await asyncio.to_thread(_preview, call.services.artifacts, record.artifact)
    except IntegrityError:
        alarms.integrity_failed("dataset", dataset_id=record.id)
        raise
    kept = preview.get(query.split, [])
    total = shown(record)["splits"].get(query.split, len(kept))
    if query.offset and len(kept) <= query.offset < total:
        raise InvalidValueError(
            f"the first {len(kept)} of {total} rows are kept for showing.", param="offset"
        )
    end = query.offset + query.limit
    return {
        "object": "list",
        "data": kept[query.offset : end],
        "total": total,
        "has_more": end < len(kept),
    }


def _preview(artifacts: Artifacts, digest: str) -> dict[str, list[Any]]:
    """Read the first rows of every split.

    Raises:
        IntegrityError: They are gone from the disk, or not what was stored.
    """
    try:
        text = artifacts.read(digest, PREVIEW_NAME)
        return msgspec.json.decode(text, type=dict[str, list[Any]])
    except (NotFoundError, IntegrityError, ValueError) as error:
        raise IntegrityError(
            "the stored rows of the dataset are gone, or are not what was written.",
            hint="Build it again.",
        ) from error
