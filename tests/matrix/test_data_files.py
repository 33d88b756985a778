"""FIL-05: data files that lie about themselves, would unfold, or carry code."""

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from purvey.contracts.data import DatasetConfig
from purvey.contracts.jobs import InputFile
from purvey.data.build import build_dataset
from purvey.data.loader import load_split
from purvey.data.reading.parquet import read_parquet
from purvey.errors import InvalidFileError
from tests.matrix import hostile_tables
from tests.matrix.hostile_tables import REFUSED, parquet, plain


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """A function that builds a dataset of one file, and returns its folder."""

    def run(data: bytes, name: str = "a.parquet", **config: object) -> Path:
        path, folder = tmp_path / "upload", tmp_path / "built"
        path.write_bytes(data)
        folder.mkdir()
        file = InputFile(
            role="source", path=str(path), name=name, sha256="0" * 64, num_bytes=len(data)
        )
        build_dataset([file], DatasetConfig.model_validate(config), folder)
        return folder

    return run


@pytest.mark.row("FIL-05")
@pytest.mark.parametrize("what", REFUSED)
def test_a_file_that_cannot_be_used_is_refused(build: Callable[..., Path], what: str) -> None:
    name, make, said = REFUSED[what]
    data = make()
    with pytest.raises(InvalidFileError, match=said) as caught:
        build(data, name)
    assert len(caught.value.text) < 500
    assert "0x" not in caught.value.text


@pytest.mark.row("FIL-05")
def test_a_pickled_type_is_bytes_like_any_other(build: Callable[..., Path], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(InvalidFileError, match="column 'text' is not a usable image"):
        build(hostile_tables.pickled_type(canary))
    assert not canary.exists()


@pytest.mark.row("FIL-05")
def test_a_formula_is_text(build: Callable[..., Path]) -> None:
    cells = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "plain"]
    rows = "".join(f'"{cell}",{"xy"[i % 2]}\n' for i, cell in enumerate(cells))
    folder = build(f"text,label\n{rows}".encode(), "a.csv", splits={"validation": 0, "test": 0})
    assert sorted(load_split(folder, "train").texts("text")) == sorted(cells)
    preview = json.loads((folder / "preview.json").read_bytes())
    assert {row["text"] for row in preview["train"]} == set(cells)


@pytest.mark.row("FIL-05")
def test_lists_as_deep_as_a_request_may_nest_are_read(build: Callable[..., Path]) -> None:
    rows = hostile_tables.lists(63)
    with pytest.raises(InvalidFileError, match="line 1: column 'a'"):  # no conversation, but read
        build(rows, "a.jsonl")


@pytest.mark.row("FIL-05")
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("count", [40, pytest.param(5_000, marks=pytest.mark.faults)])
def test_a_damaged_table_is_read_whole_or_refused(tmp_path: Path, count: int) -> None:
    whole = parquet(plain())
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    path = tmp_path / "damaged"
    seed = int.from_bytes(os.urandom(4), "little")
    chance = random.Random(seed)  # noqa: S311 (damage, not a secret)
    for _ in range(count):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 4))):
            first = len(damaged) - footer if chance.random() < 0.6 else 0
            damaged[chance.randrange(first, len(damaged))] = chance.choice((0, 127, 128, 255))
        path.write_bytes(damaged)
        assert _ended(path) in {READ, REFUSED_IT, *DEATHS}, seed


READ, REFUSED_IT, WRONG = 0, 1, 2
DEATHS = {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGKILL}
"""The reader is C++: a worker may die of a file, and then its job fails."""


def _ended(path: Path) -> int:
    """Read a file in a process of its own, and tell how that ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        table = read_parquet(path, source="a.parquet")
        is_whole = all(len(cells) == table.num_rows for cells in table.columns.values())
        os._exit(READ if is_whole else WRONG)
    except (InvalidFileError, MemoryError):  # a size that is a lie, and more than there is
        os._exit(REFUSED_IT)
    finally:
        os._exit(WRONG)


def test_the_table_that_is_damaged_is_whole_before(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(parquet(plain()))
    assert read_parquet(tmp_path / "a", source="a.parquet").num_rows == 32
