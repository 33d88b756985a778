"""Projects: the tenants that own everything else."""

import msgspec
from sqlalchemy import Connection, select

from purvey.errors import NotFoundError
from purvey.store.rows import from_row, get_row
from purvey.store.tables import PROJECTS


class ProjectRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant."""

    id: str
    name: str
    created_at: float


def ensure(conn: Connection, project_id: str, *, name: str, now: float) -> ProjectRecord:
    """Return the project, created if it was not there."""
    row = conn.execute(select(PROJECTS).where(PROJECTS.c.id == project_id)).one_or_none()
    if row is not None:
        return from_row(row, ProjectRecord)
    conn.execute(PROJECTS.insert(), {"id": project_id, "name": name, "created_at": now})
    return ProjectRecord(id=project_id, name=name, created_at=now)


def get(conn: Connection, project_id: str) -> ProjectRecord:
    """Return a project.

    Raises:
        NotFoundError: No project has this id.
    """
    missing = NotFoundError(f"no project {project_id!r}.", param="project")
    return get_row(conn, PROJECTS, ProjectRecord, where={"id": project_id}, missing=missing)
