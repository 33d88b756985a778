"""Rows of feedback on answers. Their content is their project's, and is shown to it alone."""

from sqlalchemy import Connection, select

from purvey.contracts.records import FeedbackRecord
from purvey.errors import NotFoundError
from purvey.store.rows import Order, Page, delete_row, from_row, get_row, page_rows, to_row
from purvey.store.tables import FEEDBACK


def insert(conn: Connection, record: FeedbackRecord) -> None:
    """Add feedback."""
    conn.execute(FEEDBACK.insert(), to_row(record))


def get(conn: Connection, project_id: str, feedback_id: str) -> FeedbackRecord:
    """Return feedback of the project.

    Raises:
        NotFoundError: No such feedback, or another project's.
    """
    where = {"project_id": project_id, "id": feedback_id}
    return get_row(conn, FEEDBACK, FeedbackRecord, where=where, missing=_missing(feedback_id))


def page(
    conn: Connection,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    order: Order = "desc",
    model: str | None = None,
) -> Page[FeedbackRecord]:
    """List the project's feedback, on one model if given."""
    where = {"project_id": project_id, "model": model}
    return page_rows(
        conn, FEEDBACK, FeedbackRecord, where=where, after=after, limit=limit, order=order
    )


def on_model(conn: Connection, project_id: str, model: str, *, limit: int) -> list[FeedbackRecord]:
    """Return the project's first `limit` pieces of feedback on a model, oldest first."""
    found = (
        select(FEEDBACK)
        .where(FEEDBACK.c.project_id == project_id, FEEDBACK.c.model == model)
        .order_by(FEEDBACK.c.position)
        .limit(limit)
    )
    return [from_row(row, FeedbackRecord) for row in conn.execute(found)]


def delete(conn: Connection, project_id: str, feedback_id: str) -> None:
    """Remove feedback.

    Raises:
        NotFoundError: No such feedback, or another project's.
    """
    where = {"project_id": project_id, "id": feedback_id}
    delete_row(conn, FEEDBACK, where=where, missing=_missing(feedback_id))


def _missing(feedback_id: str) -> NotFoundError:
    return NotFoundError(f"no feedback {feedback_id!r}.", param="feedback_id")
