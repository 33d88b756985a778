"""Rows of explanations: the object as the API shows it."""

from typing import Any, Literal

from sqlalchemy import Connection, select

from purvey.contracts.records import ExplanationRecord
from purvey.store.rows import OwnedRows, from_row
from purvey.store.tables import EXPLANATIONS

_ROWS = OwnedRows(table=EXPLANATIONS, record_type=ExplanationRecord, noun="explanation")
insert, get, page, delete = _ROWS.insert, _ROWS.get, _ROWS.page, _ROWS.delete


def unfinished(conn: Connection) -> list[ExplanationRecord]:
    """List explanations of all projects that are in progress, for the start of the server."""
    found = conn.execute(select(EXPLANATIONS).where(EXPLANATIONS.c.status == "in_progress"))
    return [from_row(row, ExplanationRecord) for row in found]


def finish(
    conn: Connection,
    project_id: str,
    explanation_id: str,
    *,
    status: Literal["completed", "failed"],
    body: dict[str, Any],  # JSON values
    picture_file: str | None = None,
) -> None:
    """Record how an explanation ended.

    Raises:
        NotFoundError: No such explanation, or another project's; it was deleted meanwhile.
    """
    changed = conn.execute(
        EXPLANATIONS.update()
        .where(EXPLANATIONS.c.project_id == project_id, EXPLANATIONS.c.id == explanation_id)
        .values(status=status, body=body, picture_file=picture_file)
    )
    if changed.rowcount == 0:
        raise _ROWS.missing(explanation_id)
