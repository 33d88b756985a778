"""A database for each test, copied from one that was migrated once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from purvey.store import schema
from purvey.store.database import Database
from purvey.testing.clock import FakeClock


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "empty.db"
    schema.prepare(path)
    return path


@pytest.fixture
def file(empty_file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_file, tmp_path / "purvey.db"))


@pytest.fixture
def database(file: Path) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{file}", clock=FakeClock())
    yield opened
    opened.close()
