"""SQLite connections: pragmas, transactions, and what the driver must not do by itself."""

import sqlite3
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from purvey.errors import SettingError

BUSY_TIMEOUT_S = 5.0


def path_of(url: str) -> Path:
    """Return the file that a database URL names.

    Raises:
        SettingError: The URL is not `sqlite:///` and a path.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise SettingError(
            "the database URL is not usable.",
            param="database_url",
            hint="Give 'sqlite:///' and the path of a file.",
        )
    if parsed.database == ":memory:":
        raise SettingError(
            "a database in memory keeps nothing.",
            param="database_url",
            hint="Give 'sqlite:///' and the path of a file.",
        )
    return Path(parsed.database)


def writing_engine(path: Path) -> Engine:
    """Return an engine whose transactions take the write lock as they begin."""
    return _engine(path, begin="BEGIN IMMEDIATE", pragmas=("journal_mode=WAL", "synchronous=FULL"))


def reading_engine(path: Path) -> Engine:
    """Return an engine whose connections can neither write nor checkpoint."""
    return _engine(path, begin="BEGIN", pragmas=("query_only=ON", "wal_autocheckpoint=0"))


def _engine(path: Path, *, begin: str, pragmas: tuple[str, ...]) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        hide_parameters=True,  # values of users must not reach logs through error messages
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin or commit by itself
        # Without recursive triggers, INSERT OR REPLACE would slip a row past the ledger's.
        for pragma in ("foreign_keys=ON", "recursive_triggers=ON", *pragmas):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
