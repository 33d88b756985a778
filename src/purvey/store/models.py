"""Rows of registered models; a name is unique in its project."""

from sqlalchemy import Connection, exists, select

from purvey.contracts.records import ModelRecord
from purvey.errors import ConflictError, ModelNotFoundError
from purvey.store.rows import Order, Page, delete_row, from_row, get_row, page_rows, to_row
from purvey.store.tables import MODELS


def insert(conn: Connection, record: ModelRecord) -> None:
    """Add a model.

    Raises:
        ConflictError: The project has a model of this name; nothing was added.
    """
    same = (MODELS.c.project_id == record.project_id) & (MODELS.c.name == record.name)
    if conn.execute(select(exists().where(same))).scalar_one():
        raise ConflictError(f"a model {record.name!r} is registered already.", param="id")
    conn.execute(MODELS.insert(), to_row(record))


def get(conn: Connection, project_id: str, name: str) -> ModelRecord:
    """Return a model of the project.

    Raises:
        ModelNotFoundError: No such model, or another project's.
    """
    where = {"project_id": project_id, "name": name}
    return get_row(conn, MODELS, ModelRecord, where=where, missing=_missing(name))


def with_digest(conn: Connection, project_id: str, digest: str) -> ModelRecord | None:
    """Return the oldest of the project's models that have this content, if any."""
    same = (MODELS.c.project_id == project_id) & (MODELS.c.digest == digest)
    row = conn.execute(select(MODELS).where(same).order_by(MODELS.c.position).limit(1)).first()
    return None if row is None else from_row(row, ModelRecord)


def of_family(conn: Connection, project_id: str, family: str) -> list[ModelRecord]:
    """List the project's models of one family, the oldest first."""
    same = (MODELS.c.project_id == project_id) & (MODELS.c.family == family)
    found = conn.execute(select(MODELS).where(same).order_by(MODELS.c.position))
    return [from_row(row, ModelRecord) for row in found]


def page(
    conn: Connection,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    order: Order = "desc",
    base_model: str | None = None,
) -> Page[ModelRecord]:
    """List the project's models, those built on one base if given. `after` is a name."""
    return page_rows(
        conn,
        MODELS,
        ModelRecord,
        where={"project_id": project_id, "base_model": base_model},
        after=after,
        limit=limit,
        order=order,
        name="name",
    )


def delete(conn: Connection, project_id: str, name: str) -> None:
    """Remove the row.

    Raises:
        ModelNotFoundError: No such model, or another project's.
    """
    where = {"project_id": project_id, "name": name}
    delete_row(conn, MODELS, where=where, missing=_missing(name))


def _missing(name: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"the model {name!r} does not exist or you do not have access to it.", param="model"
    )
