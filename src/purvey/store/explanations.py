"""Rows of explanations: the object as the API shows it."""

from typing import Any, Literal

from sqlalchemy import Connection, select

from purvey.contracts.records import ExplanationRecord
from purvey.errors import NotFoundError
from purvey.store.rows import Order, Page, delete_row, from_row, get_row, page_rows, to_row
from purvey.store.tables import EXPLANATIONS


def insert(conn: Connection, record: ExplanationRecord) -> None:
    """Add an explanation."""
    conn.execute(EXPLANATIONS.insert(), to_row(record))


def get(conn: Connection, project_id: str, explanation_id: str) -> ExplanationRecord:
    """Return an explanation of the project.

    Raises:
        NotFoundError: No such explanation, or another project's.
    """
    where = {"project_id": project_id, "id": explanation_id}
    missing = _missing(explanation_id)
    return get_row(conn, EXPLANATIONS, ExplanationRecord, where=where, missing=missing)


def page(
    conn: Connection,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    order: Order = "desc",
    model: str | None = None,
) -> Page[ExplanationRecord]:
    """List the project's explanations, of one model if given."""
    where = {"project_id": project_id, "model": model}
    return page_rows(
        conn, EXPLANATIONS, ExplanationRecord, where=where, after=after, limit=limit, order=order
    )


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
        raise _missing(explanation_id)


def delete(conn: Connection, project_id: str, explanation_id: str) -> None:
    """Remove the row.

    Raises:
        NotFoundError: No such explanation, or another project's.
    """
    where = {"project_id": project_id, "id": explanation_id}
    delete_row(conn, EXPLANATIONS, where=where, missing=_missing(explanation_id))


def _missing(explanation_id: str) -> NotFoundError:
    return NotFoundError(f"no explanation {explanation_id!r}.", param="explanation_id")
