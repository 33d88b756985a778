"""Rows of API keys: the keyed hash of a secret, never the secret."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from purvey.contracts.records import KeyRecord
from purvey.errors import NotFoundError
from purvey.store.rows import Order, Page, from_row, get_row, page_rows, to_row
from purvey.store.tables import KEYS


@dataclass(frozen=True, kw_only=True)
class StoredKey:
    """A key with the hash it was found by."""

    record: KeyRecord
    secret_hash: bytes


def insert(conn: Connection, record: KeyRecord, *, secret_hash: bytes) -> None:
    """Add a key."""
    conn.execute(KEYS.insert(), to_row(record) | {"secret_hash": secret_hash})


def find(conn: Connection, secret_hash: bytes) -> StoredKey | None:
    """Return the key whose hash is exactly this, of whatever project."""
    row = conn.execute(select(KEYS).where(KEYS.c.secret_hash == secret_hash)).one_or_none()
    if row is None:
        return None
    return StoredKey(record=from_row(row, KeyRecord), secret_hash=row.secret_hash)


def get(conn: Connection, project_id: str, key_id: str) -> KeyRecord:
    """Return a key of the project.

    Raises:
        NotFoundError: No such key, or another project's.
    """
    where = {"project_id": project_id, "id": key_id}
    return get_row(conn, KEYS, KeyRecord, where=where, missing=_missing(key_id))


def page(
    conn: Connection, project_id: str, *, after: str | None, limit: int, order: Order = "desc"
) -> Page[KeyRecord]:
    """List the project's keys, revoked ones too."""
    where = {"project_id": project_id}
    return page_rows(conn, KEYS, KeyRecord, where=where, after=after, limit=limit, order=order)


def revoke(conn: Connection, project_id: str, key_id: str, *, now: float) -> KeyRecord:
    """Mark a key as revoked; a second time changes nothing.

    Raises:
        NotFoundError: No such key, or another project's.
    """
    conn.execute(
        KEYS.update()
        .where(KEYS.c.project_id == project_id, KEYS.c.id == key_id, KEYS.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    return get(conn, project_id, key_id)


def touch(conn: Connection, key_id: str, *, now: float) -> None:
    """Note when a key was last used."""
    conn.execute(KEYS.update().where(KEYS.c.id == key_id).values(last_used_at=now))


def count(conn: Connection) -> int:
    """Count the keys of all projects, revoked ones too."""
    return conn.execute(select(func.count()).select_from(KEYS)).scalar_one()


def _missing(key_id: str) -> NotFoundError:
    return NotFoundError(f"no API key {key_id!r}.", param="key_id")
