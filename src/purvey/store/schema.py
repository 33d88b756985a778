"""Bring the database file to this version's schema, or refuse it and say what to do.

Alembic is slow to import and rarely needed: a file that is new, or whose version is `HEAD`,
never loads it.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from purvey.errors import SettingError, StorageUnavailableError
from purvey.store import sqlite
from purvey.store.disk import sync_file, sync_folder
from purvey.store.tables import METADATA

HEAD = "0007"
KNOWN_VERSIONS = frozenset({"0001", "0002", "0003", "0004", "0005", "0006", "0007"})
"""Every version that a release has written; each is upgraded forward to `HEAD`."""


def prepare(path: Path) -> None:
    """Create the file at `HEAD`, or check it and upgrade it.

    A new database is made under another name, synced, then renamed: a file at `path` is
    always whole, so an empty one is damage and not an interrupted start.

    Raises:
        SettingError: Damaged, not ours, or written by a newer version; it is unchanged.
        StorageUnavailableError: The disk refused.
    """
    try:
        if path.exists():
            _check(path)
        else:
            _create(path)
    except (OSError, sqlite3.OperationalError, OperationalError) as error:
        raise StorageUnavailableError(
            f"the database {path.name!r} cannot be opened.",
            hint="Check that data_dir is writable and not full.",
        ) from error


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if Path(f"{path}-wal").exists():  # it would be replayed into the new file
        raise _damaged(path)
    fresh = path.with_name(path.name + ".new")
    for leftover in (fresh, Path(f"{fresh}-wal"), Path(f"{fresh}-shm")):
        leftover.unlink(missing_ok=True)
    _make(fresh)
    sync_file(fresh)
    fresh.rename(path)
    sync_folder(path.parent)


def _make(path: Path) -> None:
    """Write every table and the version, in one transaction."""
    engine = sqlite.writing_engine(path)
    with engine.begin() as connection:
        METADATA.create_all(connection)
        connection.exec_driver_sql(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
            "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (HEAD,))
    engine.dispose()


def _check(path: Path) -> None:
    if path.stat().st_size == 0:
        raise _damaged(path)
    if Path(f"{path}-shm").exists() and not Path(f"{path}-wal").exists():
        raise _cut_off(path)  # SQLite makes the log first and removes it last
    try:
        # Read-only: looking at a damaged file must not fold its log into it.
        uri = f"{path.absolute().as_uri()}?mode=ro"
        looking = sqlite3.connect(uri, uri=True, timeout=sqlite.BUSY_TIMEOUT_S)
        with closing(looking) as connection:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            version = _version(connection)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        raise _damaged(path) from None
    if verdict != "ok":
        raise _damaged(path)
    _judge(path, version)


def _judge(path: Path, version: str | None) -> None:
    if version is None:
        raise SettingError(
            f"{path.name!r} is not a database of Purvey.",
            param="database_url",
            hint="Point database_url at another file, or move this one away.",
        )
    if version not in KNOWN_VERSIONS:
        raise SettingError(
            f"{path.name!r} has schema {version!r}, which this version does not know.",
            param="database_url",
            hint="It was written by a newer Purvey: upgrade, or restore an older backup.",
        )
    if version != HEAD:
        _upgrade(path)


def _version(connection: sqlite3.Connection) -> str | None:
    table = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
    ).fetchone()
    if table is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _upgrade(path: Path) -> None:
    """Run the migrations in one transaction: all of them or none."""
    engine = sqlite.writing_engine(path)
    with engine.begin() as connection:
        migrate(connection)
    engine.dispose()


def migrate(connection: Connection) -> None:
    """Upgrade to `HEAD` inside the caller's transaction."""
    from alembic import command  # slow to import, and only needed here
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _damaged(path: Path) -> SettingError:
    return SettingError(
        f"the database {path.name!r} is damaged; nothing was changed.",
        param="database_url",
        hint="Restore a backup, or move the file away to start empty.",
    )


def _cut_off(path: Path) -> SettingError:
    return SettingError(
        f"{path.name}-wal, which holds what was written last, is gone; nothing was changed.",
        param="database_url",
        hint=f"Put it back, or restore a backup. To go on without what it held, remove "
        f"{path.name}-shm.",
    )
