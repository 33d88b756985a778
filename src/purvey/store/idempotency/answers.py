"""Rows of kept answers: what a creating request was told, under the key that it came with."""

import msgspec
from sqlalchemy import Connection, exists, select
from sqlalchemy.sql import ColumnElement

from purvey.errors import IdempotencyKeyInUseError
from purvey.store.rows import from_row, to_row
from purvey.store.tables import KEPT_ANSWERS

KEPT_S = 24 * 3_600.0
"""How long an answer is given again; then its row goes, and its key is free."""
SWEPT_AT_ONCE = 1_000
"""Rows that one transaction of the sweep removes at most."""


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Where a key means something: one route, for one project."""

    project_id: str
    route: str
    key: str


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, and the request that it belongs to.

    Attributes:
        fingerprint: Hex SHA-256 of the request.
        subject: Id of what the request created.
        body: None where the answer held a secret, which is stored nowhere.
    """

    project_id: str
    route: str
    key: str
    fingerprint: str
    subject: str
    status: int
    body: bytes | None
    created_at: float


def insert(conn: Connection, answer: KeptAnswer) -> None:
    """Keep an answer, in the transaction that creates its subject.

    Raises:
        IdempotencyKeyInUseError: Another request with this key came first; nothing is kept.
    """
    scope = Scope(project_id=answer.project_id, route=answer.route, key=answer.key)
    here = _within(scope)
    over = KEPT_ANSWERS.c.created_at <= answer.created_at - KEPT_S
    conn.execute(KEPT_ANSWERS.delete().where(*here, over))
    if conn.execute(select(exists(select(KEPT_ANSWERS.c.position).where(*here)))).scalar_one():
        raise IdempotencyKeyInUseError("another request with this Idempotency-Key came first.")
    conn.execute(KEPT_ANSWERS.insert(), to_row(answer))


def find(conn: Connection, scope: Scope, *, now: float) -> KeptAnswer | None:
    """Return the answer that is kept under a key, unless its time is over."""
    fresh = KEPT_ANSWERS.c.created_at > now - KEPT_S
    row = conn.execute(select(KEPT_ANSWERS).where(*_within(scope), fresh)).one_or_none()
    return None if row is None else from_row(row, KeptAnswer)


def replace(
    conn: Connection, project_id: str, subject: str, *, status: int, body: bytes | None
) -> None:
    """Let the answer about a subject be another one from now on, if one is kept."""
    about = _about(project_id, subject)
    conn.execute(KEPT_ANSWERS.update().where(*about).values(status=status, body=body))


def forget(conn: Connection, project_id: str, subject: str) -> None:
    """Remove the answer about a subject, if one is kept: its key is free again."""
    conn.execute(KEPT_ANSWERS.delete().where(*_about(project_id, subject)))


def has_old(conn: Connection, *, now: float) -> bool:
    """Tell whether there is anything to sweep."""
    old = select(KEPT_ANSWERS.c.position).where(KEPT_ANSWERS.c.created_at <= now - KEPT_S)
    return bool(conn.execute(select(exists(old))).scalar_one())


def sweep(conn: Connection, *, now: float) -> int:
    """Remove the oldest answers whose time is over, and return how many; a bounded number."""
    old = (
        select(KEPT_ANSWERS.c.position)
        .where(KEPT_ANSWERS.c.created_at <= now - KEPT_S)
        .order_by(KEPT_ANSWERS.c.created_at)
        .limit(SWEPT_AT_ONCE)
    )
    return conn.execute(KEPT_ANSWERS.delete().where(KEPT_ANSWERS.c.position.in_(old))).rowcount


def _within(scope: Scope) -> list[ColumnElement[bool]]:
    return [
        KEPT_ANSWERS.c.project_id == scope.project_id,
        KEPT_ANSWERS.c.route == scope.route,
        KEPT_ANSWERS.c.key == scope.key,
    ]


def _about(project_id: str, subject: str) -> list[ColumnElement[bool]]:
    return [KEPT_ANSWERS.c.project_id == project_id, KEPT_ANSWERS.c.subject == subject]
