"""A dataset's worker under limits: a bomb ends its job with a reason, not the machine."""

import contextlib
import hashlib
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from purvey.contracts.jobs import DatasetBuilt, FromWorker, InputFile, JobFailed, JobSpec
from purvey.jobs.launcher import LocalJobLauncher
from purvey.worker.job import failure_of

TIGHT = """
import dataclasses, sys
from purvey.contracts import limits
limits.LIMITS = dataclasses.replace(limits.LIMITS, dataset_bytes={num_bytes})
from purvey.worker.__main__ import main
sys.argv = ["purvey.worker", "job", *sys.argv[1:]]
raise SystemExit(main())
"""
PLENTY, LITTLE = 2**30, 2**28


async def last_word(folder: Path, file: Path, *, num_bytes: int) -> FromWorker:
    """Prepare a dataset from the file in a worker that has so much memory."""
    worker = await LocalJobLauncher(
        command=(sys.executable, "-P", "-c", TIGHT.format(num_bytes=num_bytes))
    ).launch(spec_of(folder, file))
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(worker.discard)
        heard = [message async for message in worker.messages()]
        assert await worker.wait() == 0
    return heard[-1]


def spec_of(folder: Path, file: Path) -> JobSpec:
    """Ask for a dataset of the file."""
    data = file.read_bytes()
    source = InputFile(
        role="source",
        path=str(file),
        name=file.name,
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
    )
    output = folder / "output"
    output.mkdir()
    return JobSpec(
        job_id="job_x",
        kind="dataset",
        attempt=1,
        fence=1,
        recipe={},
        files=(source,),
        work_dir=str(folder),
        output_dir=str(output),
    )


def shared_text(path: Path, *, text_bytes: int, num_rows: int) -> Path:
    """Write one long text that stands in every row, stored once."""
    texts = pa.DictionaryArray.from_arrays(
        pa.array([0] * num_rows, pa.int32()), pa.array(["x" * text_bytes])
    )
    labels = pa.array(["a", "b"] * (num_rows // 2))
    pq.write_table(pa.table({"text": texts, "label": labels}), path, compression="zstd")
    return path


def parquet_bomb(path: Path, *, text_bytes: int, num_rows: int) -> Path:
    """Write long texts that differ from one another, and compress to next to nothing."""
    schema = pa.schema({"text": pa.string(), "label": pa.string()})
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for start in range(0, num_rows, 100):
            texts = [f"{start + row} " + "x" * text_bytes for row in range(100)]
            columns = {"text": texts, "label": ["a", "b"] * 50}
            writer.write_table(pa.table(columns, schema=schema))
    return path


def csv_of(path: Path, num_rows: int) -> Path:
    rows = "".join(f"text number {i} {'x' * 500},{'ab'[i % 2]}\n" for i in range(num_rows))
    path.write_text("text,label\n" + rows, encoding="utf-8")
    return path


async def test_an_honest_file_is_prepared_under_the_limits(tmp_path: Path) -> None:
    last = await last_word(tmp_path, csv_of(tmp_path / "a.csv", 200), num_bytes=PLENTY)
    assert isinstance(last, DatasetBuilt)
    assert last.manifest.rows["train"] > 100


async def test_a_text_that_rows_share_is_held_once(tmp_path: Path) -> None:
    file = shared_text(tmp_path / "a.parquet", text_bytes=900_000, num_rows=1_000)
    last = await last_word(tmp_path, file, num_bytes=LITTLE)
    assert isinstance(last, DatasetBuilt)
    assert last.manifest.profile["duplicates_removed"] == 998  # one text, two labels


@pytest.mark.parametrize("kind", ["parquet", "csv"])
async def test_what_needs_more_memory_fails_and_says_so(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        file = parquet_bomb(tmp_path / "a.parquet", text_bytes=900_000, num_rows=1_000)
        assert file.stat().st_size < 2**20
    else:
        file = csv_of(tmp_path / "a.csv", 400_000)
    last = await last_word(tmp_path, file, num_bytes=LITTLE)
    assert isinstance(last, JobFailed)
    assert last.code == "invalid_file"
    assert f"more memory than the {LITTLE} bytes" in last.message
    assert not last.is_transient


def test_memory_that_ends_elsewhere_is_named_too() -> None:
    assert "more memory" in failure_of(MemoryError()).message


def test_a_file_past_its_limit_is_named() -> None:
    failure = failure_of(OSError(27, "File too large"))
    assert (failure.code, "too large" in failure.message) == ("invalid_file", True)
