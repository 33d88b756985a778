"""Rows of feedback on answers. Their content is their project's, and is shown to it alone."""

from sqlalchemy import Connection, select

from purvey.contracts.records import FeedbackRecord
from purvey.store.rows import OwnedRows, from_row
from purvey.store.tables import FEEDBACK

_ROWS = OwnedRows(table=FEEDBACK, record_type=FeedbackRecord, noun="feedback")
insert, get, page, delete = _ROWS.insert, _ROWS.get, _ROWS.page, _ROWS.delete


def on_model(conn: Connection, project_id: str, model: str, *, limit: int) -> list[FeedbackRecord]:
    """Return the project's first `limit` pieces of feedback on a model, oldest first."""
    found = (
        select(FEEDBACK)
        .where(FEEDBACK.c.project_id == project_id, FEEDBACK.c.model == model)
        .order_by(FEEDBACK.c.position)
        .limit(limit)
    )
    return [from_row(row, FeedbackRecord) for row in conn.execute(found)]
