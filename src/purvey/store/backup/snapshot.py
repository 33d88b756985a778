"""One moment of a database, read over a connection of its own that can change nothing.

The file is opened read-only: such a connection neither writes nor checkpoints, not even as the
last one to close, so the server stays the only writer (see `store.database`).
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine, select
from sqlalchemy.exc import DBAPIError, OperationalError

from purvey.errors import (
    InsufficientStorageError,
    IntegrityError,
    PurveyError,
    SettingError,
    StorageUnavailableError,
)
from purvey.store import keys, schema, sqlite
from purvey.store.failures import storage_error
from purvey.store.sweeper import named_artifacts, named_blobs
from purvey.store.tables import CHECKPOINTS, JOBS, MODELS

PAGES_PER_STEP = 4_096
_OVER = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Named:
    """What the rows of one moment name.

    Attributes:
        blobs: Hashes of files.
        artifacts: Digests of models and datasets.
        needs_pepper: Whether there are keys, which are worth nothing without it.
        models_elsewhere: Models in the operator's own folders.
        unfinished_jobs: Jobs that are not over and have checkpoints.
    """

    blobs: frozenset[str]
    artifacts: frozenset[str]
    needs_pepper: bool
    models_elsewhere: tuple[str, ...]
    unfinished_jobs: tuple[str, ...]


class Snapshot:
    """A database at one moment, as long as the block of `snapshot_of` lasts."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def version(self) -> str:
        """Version of the tables."""
        found = self._connection.exec_driver_sql("SELECT version_num FROM alembic_version")
        return str(found.scalar_one())

    def named(self) -> Named:
        """Return everything that lies outside the database and is named in it."""
        conn = self._connection
        elsewhere = select(MODELS.c.name).where(MODELS.c.artifact.is_(None))
        unfinished = (
            select(JOBS.c.id)
            .where(JOBS.c.id.in_(select(CHECKPOINTS.c.job_id)), JOBS.c.status.not_in(_OVER))
            .order_by(JOBS.c.position)
        )
        return Named(
            blobs=frozenset(named_blobs(conn)),
            artifacts=frozenset(named_artifacts(conn)),
            needs_pepper=keys.count(conn) > 0,
            models_elsewhere=tuple(sorted(conn.execute(elsewhere).scalars())),
            unfinished_jobs=tuple(conn.execute(unfinished).scalars()),
        )

    def copy_to(self, target: Path) -> None:
        """Write this moment to a new file: one file, with no log beside it.

        The steps stay within the transaction, so no write of the server makes them start over.

        Raises:
            IntegrityError: The database is damaged.
        """
        source = self._connection.connection.driver_connection
        assert isinstance(source, sqlite3.Connection), "not SQLite's driver"  # noqa: S101
        with closing(sqlite3.connect(target, isolation_level=None)) as copy:
            source.backup(copy, pages=PAGES_PER_STEP)
            copy.execute("PRAGMA journal_mode=DELETE").close()
            verdict = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise IntegrityError("the database is damaged; no backup was made of it.")
        target.chmod(0o600)


@contextmanager
def snapshot_of(path: Path, *, is_live: bool) -> Iterator[Snapshot]:
    """Open a database at the moment it has now.

    Args:
        path: Its file.
        is_live: Whether a server may be writing to it; else nothing is made beside it.

    Raises:
        SettingError: It is not there, not a database of ours, or of a version that is unknown.
        StorageUnavailableError: It could not be read.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro{'' if is_live else '&immutable=1'}"
    engine = create_engine(
        "sqlite://", creator=lambda: _connect(uri), poolclass=NullPool, hide_parameters=True
    )
    try:
        if not path.is_file():
            raise _not_ours(path)
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            _require_known(path, connection)  # the first read: the moment begins
            yield Snapshot(connection)
    except (DBAPIError, sqlite3.Error) as error:
        raise _refused(path, error) from error


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=sqlite.BUSY_TIMEOUT_S, isolation_level=None)


def _require_known(path: Path, connection: Connection) -> None:
    table = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
    if table.first() is None:
        raise _not_ours(path)
    version = Snapshot(connection).version
    if version not in schema.KNOWN_VERSIONS:
        raise SettingError(
            f"{path.name!r} has schema {version!r}, which this version does not know.",
            hint="It was written by a newer Purvey: upgrade this one first.",
        )


def _refused(path: Path, error: DBAPIError | sqlite3.Error) -> PurveyError:
    translated = storage_error(error)
    if isinstance(translated, InsufficientStorageError):
        return translated
    if isinstance(error, sqlite3.OperationalError | OperationalError):
        return StorageUnavailableError(f"the database {str(path)!r} cannot be read.")
    return _not_ours(path)


def _not_ours(path: Path) -> SettingError:
    return SettingError(f"there is no sound database of Purvey at {str(path)!r}.", param="data_dir")
