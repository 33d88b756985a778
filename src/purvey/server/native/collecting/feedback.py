"""`/v1/feedback`: what people think of answers, kept to learn from."""

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import ConfigDict, Field
from sqlalchemy import Connection
from typing_extensions import TypedDict

from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import FeedbackRecord, Rating
from purvey.errors import InvalidValueError
from purvey.server.paging import Listing, PageQuery, listing, listing_example
from purvey.server.policy import Caller
from purvey.server.routing import Routes
from purvey.server.validation import Body, Metadata
from purvey.store.collecting import feedback

routes = Routes(tag="Feedback")
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
Content = Annotated[str, Field(min_length=1, max_length=LIMITS.feedback_chars)]


class FeedbackRequest(Body):
    """Feedback on one answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "messages",
                "input": "my refund is wrong",
                "output": "delivery",
                "rating": "bad",
                "correction": "billing",
            }
        }
    )

    model: ModelName = Field(description="The model that answered, as it was asked for.")
    request_id: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None, description="`x-request-id` of the answer."
    )
    input: Content | None = Field(None, description="What was asked.")
    output: Content | None = Field(None, description="What was answered.")
    rating: Rating | None = None
    correction: Content | None = Field(None, description="What should have been answered.")
    metadata: Metadata | None = None


class FeedbackObject(TypedDict):
    """Feedback on one answer."""

    id: str
    object: Literal["feedback"]
    created_at: float
    model: str
    request_id: str | None
    input: str | None
    output: str | None
    rating: Rating | None
    correction: str | None
    metadata: dict[str, str]


class DeletedFeedback(TypedDict):
    """Word that feedback is gone."""

    id: str
    object: Literal["feedback"]
    deleted: bool


class FeedbackQuery(PageQuery):
    """Which page of feedback, on which model."""

    model: ModelName | None = Field(None, description="Only on this model.")


EXAMPLE: dict[str, Any] = {  # JSON values
    "id": "fb_0d9c8f7a6e6f1c9a0e5b7d4c2f8a3e1b",
    "object": "feedback",
    "created_at": 1795467000.0,
    "model": "messages",
    "request_id": None,
    "input": "my refund is wrong",
    "output": "delivery",
    "rating": "bad",
    "correction": "billing",
    "metadata": {},
}


@routes.add(
    "POST",
    "/v1/feedback",
    scope="inference",
    returns=FeedbackObject,
    example=EXAMPLE,
    is_creating=True,
)
async def create(call: Caller, body: FeedbackRequest) -> FeedbackObject:
    """Keep a rating or a correction of an answer.

    It names the answer by its input, by its request id, or by both; what is to be learned from
    needs the input. The model need not exist any more.
    """
    if body.rating is None and body.correction is None:
        raise InvalidValueError("give a rating, a correction, or both.", param="rating")
    if body.input is None and body.request_id is None:
        raise InvalidValueError("give the input, the request id, or both.", param="input")
    record = FeedbackRecord(
        id=new_id("fb_"),
        project_id=call.project_id,
        created_at=call.services.clock.now(),
        model=body.model,
        request_id=body.request_id,
        input=body.input,
        output=body.output,
        rating=body.rating,
        correction=body.correction,
        metadata=body.metadata or {},
    )

    def work(conn: Connection) -> None:
        feedback.insert(conn, record)
        call.once.keep(conn, shown(record), subject=record.id)

    await call.services.database.write(work)
    return shown(record)


@routes.add(
    "GET",
    "/v1/feedback",
    scope="datasets:read",
    returns=Listing,
    example=listing_example(EXAMPLE),
)
async def index(call: Caller, query: Annotated[FeedbackQuery, Query()]) -> Listing:
    """List feedback, newest first."""
    page = await call.services.database.read(
        lambda conn: feedback.page(
            conn,
            call.project_id,
            after=query.after,
            limit=query.limit,
            order=query.order,
            model=query.model,
        )
    )
    return listing([shown(record) for record in page.items], has_more=page.has_more)


@routes.add(
    "GET",
    "/v1/feedback/{feedback_id}",
    scope="datasets:read",
    returns=FeedbackObject,
    example=EXAMPLE,
)
async def retrieve(call: Caller, feedback_id: str) -> FeedbackObject:
    """Show feedback."""
    return shown(
        await call.services.database.read(
            lambda conn: feedback.get(conn, call.project_id, feedback_id)
        )
    )


@routes.add(
    "DELETE",
    "/v1/feedback/{feedback_id}",
    scope="datasets:write",
    returns=DeletedFeedback,
    example={"id": EXAMPLE["id"], "object": "feedback", "deleted": True},
)
async def delete(call: Caller, feedback_id: str) -> DeletedFeedback:
    """Delete feedback; dataset versions that were made with it stay as they are."""
    await call.services.database.write(
        lambda conn: feedback.delete(conn, call.project_id, feedback_id)
    )
    return {"id": feedback_id, "object": "feedback", "deleted": True}


def shown(record: FeedbackRecord) -> FeedbackObject:
    """Show feedback's record."""
    return {
        "id": record.id,
        "object": "feedback",
        "created_at": record.created_at,
        "model": record.model,
        "request_id": record.request_id,
        "input": record.input,
        "output": record.output,
        "rating": record.rating,
        "correction": record.correction,
        "metadata": record.metadata,
    }
