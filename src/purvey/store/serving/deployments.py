"""Rows of deployments; a name is unique in its project."""

from sqlalchemy import Connection, func, select

from purvey.contracts.deployment import DeploymentRecord
from purvey.errors import ConflictError, NotFoundError
from purvey.store.rows import Order, Page, delete_row, from_row, get_row, page_rows, to_row
from purvey.store.tables import DEPLOYMENTS


def insert(conn: Connection, record: DeploymentRecord) -> None:
    """Add a deployment.

    Raises:
        ConflictError: The project has a deployment of this name; nothing was added.
    """
    same = select(DEPLOYMENTS.c.position).where(
        DEPLOYMENTS.c.project_id == record.project_id, DEPLOYMENTS.c.name == record.name
    )
    if conn.execute(same).first() is not None:
        raise ConflictError(f"there is a deployment {record.name!r} already.", param="id")
    conn.execute(DEPLOYMENTS.insert(), to_row(record))


def get(conn: Connection, project_id: str, name: str) -> DeploymentRecord:
    """Return a deployment of the project.

    Raises:
        NotFoundError: No such deployment, or another project's.
    """
    where = {"project_id": project_id, "name": name}
    return get_row(conn, DEPLOYMENTS, DeploymentRecord, where=where, missing=_missing(name))


def page(
    conn: Connection,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    order: Order = "desc",
) -> Page[DeploymentRecord]:
    """List the project's deployments. `after` is a name."""
    return page_rows(
        conn,
        DEPLOYMENTS,
        DeploymentRecord,
        where={"project_id": project_id},
        after=after,
        limit=limit,
        order=order,
        name="name",
    )


def serving(conn: Connection, project_id: str, model: str) -> DeploymentRecord | None:
    """Return a deployment of the project that serves a model, or an adapter by a profile."""
    mine = select(DEPLOYMENTS).where(DEPLOYMENTS.c.project_id == project_id)
    for row in conn.execute(mine):
        record = from_row(row, DeploymentRecord)
        if model in (record.model, *(profile.adapter for profile in record.profiles.values())):
            return record
    return None


def every(conn: Connection) -> list[DeploymentRecord]:
    """List the deployments of all projects, for the start of the server."""
    found = conn.execute(select(DEPLOYMENTS).order_by(DEPLOYMENTS.c.position))
    return [from_row(row, DeploymentRecord) for row in found]


def count(conn: Connection, project_id: str) -> int:
    """Count the project's deployments."""
    mine = DEPLOYMENTS.c.project_id == project_id
    return int(conn.execute(select(func.count()).where(mine)).scalar_one())


def update(conn: Connection, record: DeploymentRecord) -> None:
    """Write model, profiles and time of the last change.

    Raises:
        NotFoundError: No such deployment, or another project's.
    """
    values = to_row(record)
    changed = conn.execute(
        DEPLOYMENTS.update()
        .where(DEPLOYMENTS.c.project_id == record.project_id, DEPLOYMENTS.c.name == record.name)
        .values({name: values[name] for name in ("model", "profiles", "updated_at")})
    )
    if changed.rowcount == 0:
        raise _missing(record.name)


def delete(conn: Connection, project_id: str, name: str) -> None:
    """Remove the row.

    Raises:
        NotFoundError: No such deployment, or another project's.
    """
    where = {"project_id": project_id, "name": name}
    delete_row(conn, DEPLOYMENTS, where=where, missing=_missing(name))


def _missing(name: str) -> NotFoundError:
    return NotFoundError(f"no deployment {name!r}.", param="deployment")
