"""Pages of a listing, in OpenAI's shape: `after`, `limit`, `order`; `first_id`, `has_more`."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import Field
from typing_extensions import TypedDict

from purvey.contracts.limits import LIMITS
from purvey.server.validation import Question

Limit = Annotated[int, Field(ge=1, le=LIMITS.page_items)]
After = Annotated[str, Field(min_length=1, max_length=256)]


class PageQuery(Question):
    """Which page of a listing."""

    after: After | None = Field(None, description="Id of the last item of the page before.")
    limit: Limit = Field(20, description="Items at most.")
    order: Literal["asc", "desc"] = Field("desc", description="By time of creation.")


PageAsked = Annotated[PageQuery, Query()]


class Listing(TypedDict):
    """One page; `after=last_id` asks for the next one while `has_more`."""

    object: Literal["list"]
    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool


def listing(data: Sequence[Any], *, has_more: bool) -> Listing:
    """Wrap objects that carry an `id` as a page."""
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def listing_example(example: object) -> object:
    """Show a page of one item in the documentation."""
    only = example["id"] if isinstance(example, dict) else None
    return {
        "object": "list",
        "data": [example],
        "first_id": only,
        "last_id": only,
        "has_more": False,
    }
