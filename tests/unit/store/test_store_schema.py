"""Opening: from nothing, from this version, and everything that is refused."""

import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from purvey.errors import SettingError, StorageUnavailableError
from purvey.store import schema, sqlite
from purvey.store.database import Database
from purvey.store.tables import METADATA
from purvey.testing.clock import FakeClock


def _migrated(path: Path) -> Path:
    engine = sqlite.writing_engine(path)
    with engine.begin() as connection:
        schema.migrate(connection)
    engine.dispose()
    return path


def _definitions(path: Path) -> dict[str, list[str]]:
    """Return what a database holds by name, each as its parts in an order of no meaning."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
    return {name: sorted(re.findall(r"\w+|[()]", sql or "")) for name, sql in rows}


def test_migrating_from_empty_gives_the_tables(tmp_path: Path) -> None:
    engine = sqlite.writing_engine(_migrated(tmp_path / "migrated.db"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"target_metadata": METADATA})
        assert compare_metadata(context, METADATA) == []
    engine.dispose()


def test_a_new_database_is_what_migrating_from_empty_gives(file: Path, tmp_path: Path) -> None:
    migrated = _definitions(_migrated(tmp_path / "migrated.db"))
    assert _definitions(file) == migrated
    assert {"usage_ledger_no_UPDATE", "usage_ledger_no_DELETE", "alembic_version"} <= set(migrated)


def test_head_is_the_newest_migration_and_all_are_known() -> None:
    scripts = ScriptDirectory(str(Path(schema.__file__).parent / "migrations"))
    assert scripts.get_current_head() == schema.HEAD
    assert {script.revision for script in scripts.walk_revisions()} == schema.KNOWN_VERSIONS


def _of_0001(path: Path) -> Path:
    """Write a database as the release with the first schema did, and a project into it."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    engine = sqlite.writing_engine(path)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        _add_project(connection)
    engine.dispose()
    return path


def test_a_database_of_the_first_schema_is_upgraded_and_keeps_its_rows(tmp_path: Path) -> None:
    old = _of_0001(tmp_path / "old.db")
    assert "kept_answers" not in _definitions(old)
    database = Database.open(f"sqlite:///{old}", clock=FakeClock())
    assert database.read_now(_count_projects) == 1
    database.close()
    assert _definitions(old) == _definitions(_migrated(tmp_path / "migrated.db"))
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [
            (schema.HEAD,)
        ]


def test_a_new_database_is_made_aside_and_left_without_remains(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "purvey.db"
    schema.prepare(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["purvey.db"]


def test_an_interrupted_first_start_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "purvey.db"
    (tmp_path / "purvey.db.new").write_bytes(b"half a database")
    (tmp_path / "purvey.db.new-wal").write_bytes(b"half a log")
    schema.prepare(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["purvey.db"]


@pytest.mark.parametrize("name", ["head", "new"])
def test_opening_at_head_or_anew_never_loads_alembic(file: Path, name: str) -> None:
    file = file if name == "head" else file.with_name("new.db")
    script = (
        "import sys; from pathlib import Path; from purvey.store import database;"
        f"from purvey.store import schema; schema.prepare(Path({str(file)!r}));"
        "sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def refusal(path: Path) -> SettingError:
    """Return the refusal, having checked that the file is as it was."""
    before = path.read_bytes()
    with pytest.raises(SettingError) as caught:
        Database.open(f"sqlite:///{path}", clock=FakeClock())
    assert path.read_bytes() == before
    assert caught.value.hint, "a refusal says what to do"
    return caught.value


@pytest.mark.row("CRA-11")
def test_a_damaged_header_is_refused(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[:16] = b"x" * 16
    file.write_bytes(data)
    assert "damaged" in refusal(file).message


@pytest.mark.row("CRA-11")
def test_a_damaged_page_is_refused(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[4_096 : 4_096 * 3] = b"\xff" * 8_192
    file.write_bytes(data)
    assert "damaged" in refusal(file).message


@pytest.mark.row("CRA-11")
def test_an_empty_file_is_refused(file: Path) -> None:
    file.write_bytes(b"")
    assert "damaged" in refusal(file).message


@pytest.mark.row("CRA-11")
def test_a_cut_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:20_000])
    assert "damaged" in refusal(file).message


@pytest.mark.row("CRA-11")
def test_a_newer_schema_is_refused(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    assert "upgrade" in refusal(file).hint


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    assert "not a database of Purvey" in refusal(path).message


@pytest.mark.row("CRA-11")
def test_a_log_without_its_database_is_not_replayed_into_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "purvey.db-wal").write_bytes(b"of another database")
    with pytest.raises(SettingError, match="damaged"):
        schema.prepare(tmp_path / "purvey.db")
    assert not (tmp_path / "purvey.db").exists()


@pytest.mark.row("CRA-11")
def test_a_lost_log_is_refused_and_a_lost_index_of_it_is_not(file: Path, tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{file}", clock=FakeClock())
    database.write_now(_add_project)
    for name in ("log-lost.db", "index-lost.db"):
        shutil.copy(file, tmp_path / name)
    shutil.copy(f"{file}-shm", tmp_path / "log-lost.db-shm")
    shutil.copy(f"{file}-wal", tmp_path / "index-lost.db-wal")
    database.close()
    assert "log-lost.db-wal, which holds" in refusal(tmp_path / "log-lost.db").message
    again = Database.open(f"sqlite:///{tmp_path / 'index-lost.db'}", clock=FakeClock())
    assert again.read_now(_count_projects) == 1
    again.close()


def test_a_folder_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailableError):
        schema.prepare(tmp_path / "file" / "purvey.db")


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://u:p@h/d", "sqlite://", "sqlite:///"])
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(SettingError) as caught:
        Database.open(url, clock=FakeClock())
    assert caught.value.param == "database_url"


def test_what_was_written_before_a_kill_is_there_after(file: Path, tmp_path: Path) -> None:
    """A copy of file and log, taken while the server runs, is what a kill leaves."""
    database = Database.open(f"sqlite:///{file}", clock=FakeClock())
    database.write_now(_add_project)
    copy = tmp_path / "killed.db"
    shutil.copy(file, copy)
    shutil.copy(f"{file}-wal", f"{copy}-wal")
    database.close()
    again = Database.open(f"sqlite:///{copy}", clock=FakeClock())
    assert again.read_now(_count_projects) == 1
    again.close()


def _add_project(conn: Connection) -> None:
    conn.exec_driver_sql("INSERT INTO projects (id, name, created_at) VALUES ('p', 'p', 1)")


def _count_projects(conn: Connection) -> int:
    return int(conn.exec_driver_sql("SELECT count(*) FROM projects").scalar_one())
