"""Records to rows and back, and pages of rows in a stable order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import msgspec
from sqlalchemy import Column, Connection, Row, Table, select
from sqlalchemy.sql import ColumnElement

from purvey.errors import InvalidValueError, NotFoundError

R = TypeVar("R", bound=msgspec.Struct)
Order = Literal["asc", "desc"]


@dataclass(frozen=True, kw_only=True)
class Page(Generic[R]):
    """Some records in order, and whether more follow."""

    items: list[R]
    has_more: bool


@dataclass(frozen=True, kw_only=True)
class OwnedRows(Generic[R]):
    """Rows that each belong to one project, by their ids; another project's are as if not there.

    Args:
        table: With columns `id`, `project_id` and `position`.
        record_type: What a row becomes.
        noun: What an error calls one, and its id: `file`, `file_id`.
    """

    table: Table
    record_type: type[R]
    noun: str

    def insert(self, conn: Connection, record: R) -> None:
        """Add a row."""
        conn.execute(self.table.insert(), to_row(record))

    def get(self, conn: Connection, project_id: str, row_id: str) -> R:
        """Return one of the project's.

        Raises:
            NotFoundError: No such row, or another project's.
        """
        where = {"project_id": project_id, "id": row_id}
        missing = self.missing(row_id)
        return get_row(conn, self.table, self.record_type, where=where, missing=missing)

    def page(
        self,
        conn: Connection,
        project_id: str,
        *,
        after: str | None,
        limit: int,
        order: Order = "desc",
        **where: str | None,
    ) -> Page[R]:
        """List the project's, of those columns' values that are given."""
        return page_rows(
            conn,
            self.table,
            self.record_type,
            where={"project_id": project_id, **where},
            after=after,
            limit=limit,
            order=order,
        )

    def delete(self, conn: Connection, project_id: str, row_id: str) -> None:
        """Remove one of the project's.

        Raises:
            NotFoundError: No such row, or another project's.
        """
        where = {"project_id": project_id, "id": row_id}
        delete_row(conn, self.table, where=where, missing=self.missing(row_id))

    def missing(self, row_id: str) -> NotFoundError:
        """Return the error for what is not there."""
        return NotFoundError(f"no {self.noun} {row_id!r}.", param=f"{self.noun}_id")


def to_row(record: msgspec.Struct) -> dict[str, Any]:
    """Return the record's fields as values of the table's columns."""
    values: dict[str, Any] = msgspec.to_builtins(record, builtin_types=(bytes,))
    return values


def from_row(row: Row[Any], record_type: type[R]) -> R:
    """Rebuild a record, checked against its types; columns it does not have are left out."""
    # Some names are a subclass of `str`, which msgspec does not take as keys.
    return msgspec.convert({str(name): value for name, value in row._mapping.items()}, record_type)


def get_row(
    conn: Connection,
    table: Table,
    record_type: type[R],
    *,
    where: Mapping[str, object],
    missing: NotFoundError,
) -> R:
    """Return the only record that matches.

    Raises:
        NotFoundError: `missing`, the same whether it is absent or another project's.
    """
    row = conn.execute(select(table).where(*_equal(table, where))).one_or_none()
    if row is None:
        raise missing
    return from_row(row, record_type)


def delete_row(
    conn: Connection, table: Table, *, where: Mapping[str, object], missing: NotFoundError
) -> None:
    """Delete the only row that matches.

    Raises:
        NotFoundError: `missing`; nothing was deleted.
    """
    if conn.execute(table.delete().where(*_equal(table, where))).rowcount == 0:
        raise missing


def page_rows(
    conn: Connection,
    table: Table,
    record_type: type[R],
    *,
    where: Mapping[str, object | None],
    after: str | None,
    limit: int,
    order: Order,
    name: str = "id",
) -> Page[R]:
    """Return one page.

    Args:
        conn: The transaction.
        table: Where to look.
        record_type: What each row becomes.
        where: Column to value; columns with None are not filtered.
        after: `name` of the last item of the page before, or None for the first page.
        limit: Items at most.
        order: By `position`.
        name: Column that `after` refers to.

    Raises:
        InvalidValueError: `after` names nothing that this listing holds.
    """
    conditions = _equal(table, {k: v for k, v in where.items() if v is not None})
    position: Column[int] = table.c.position
    if after is not None:
        start = conn.execute(
            select(position).where(table.c[name] == after, *conditions)
        ).scalar_one_or_none()
        if start is None:
            raise InvalidValueError(f"there is no item {after!r} to go on after.", param="after")
        conditions.append(position > start if order == "asc" else position < start)
    ordering = position.asc() if order == "asc" else position.desc()
    found = conn.execute(
        select(table).where(*conditions).order_by(ordering).limit(limit + 1)
    ).fetchall()
    items = [from_row(row, record_type) for row in found[:limit]]
    return Page(items=items, has_more=len(found) > limit)


def _equal(table: Table, where: Mapping[str, object]) -> list[ColumnElement[bool]]:
    return [table.c[column] == value for column, value in where.items()]
