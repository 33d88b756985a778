"""A database with the default project, for the tests of residency."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.store import projects
from purvey.store.database import Database
from purvey.testing.clock import FakeClock


@pytest.fixture
def project_database(tmp_path: Path, clock: FakeClock) -> Iterator[Database]:
    """An open database."""
    opened = Database.open(f"sqlite:///{tmp_path / 'p.db'}", clock=clock)
    opened.write_now(lambda conn: projects.ensure(conn, DEFAULT_PROJECT, name="default", now=0.0))
    yield opened
    opened.close()
