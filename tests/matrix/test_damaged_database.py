"""CRA-11: a server does not start on a database that is not whole; a backup brings it back."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.matrix.invariants import check_store
from tests.matrix.served import serving, start

pytestmark = pytest.mark.row("CRA-11")
CONTENT = b"text,label\nhi,ham\n"


def _cut(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:20_000])


def _empty(database: Path) -> None:
    database.write_bytes(b"")


def _scribble(database: Path) -> None:
    data = bytearray(database.read_bytes())
    data[4_096 : 3 * 4_096] = b"\xff" * 8_192
    database.write_bytes(data)


def _lose_log(database: Path) -> None:
    Path(f"{database}-shm").write_bytes(bytes(32_768))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a page": _scribble,
    "its end": _cut,
    "all of it": _empty,
    "its log": _lose_log,
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one file, and a backup of it."""
    root = tmp_path_factory.mktemp("kept")
    with serving(root) as served, served.openai() as sdk:
        sdk.files.create(file=("rows.csv", CONTENT), purpose="user_data")
        _purvey("backup", "--data-dir", str(root / "data"), str(root / "backup"))
        assert served.stop() == 0
    return root


@pytest.mark.parametrize(
    "damages", [["a page"], pytest.param([*DAMAGES], marks=pytest.mark.faults)], ids=["one", "all"]
)
def test_a_damaged_database_is_refused_left_alone_and_restored(
    kept: Path, tmp_path: Path, damages: list[str]
) -> None:
    for what in damages:
        root, damage = tmp_path / what, DAMAGES[what]
        shutil.copytree(kept / "data", root / "data")
        for part in ("models", "modules"):
            (root / part).mkdir()
        database = root / "data" / "purvey.db"
        damage(database)
        before = database.read_bytes()
        process = start(root, root / "data", settings={}, failpoints="")
        assert process.wait(timeout=120) == 78, what
        assert process.stdout is not None
        process.stdout.close()
        told = (root / "server.log").read_text()
        assert told.startswith("error: "), told
        assert "estore a backup" in told
        assert "Traceback" not in told
        assert database.read_bytes() == before
    again = tmp_path / "again"
    again.mkdir()
    _purvey("restore", str(kept / "backup"), "--data-dir", str(again / "data"))
    with serving(again) as served, served.openai() as sdk:
        [file] = sdk.files.list().data
        assert sdk.files.content(file.id).content == CONTENT
        assert served.stop() == 0
    check_store(again / "data")


def _purvey(*words: str) -> None:
    command = [sys.executable, "-m", "purvey", *words]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
