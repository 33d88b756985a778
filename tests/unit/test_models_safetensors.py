"""The header of a safetensors file is checked before anything is read from it."""

import errno
import hashlib
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from purvey.errors import InvalidCheckpointError
from purvey.models.folder.safetensors_file import read_header, read_tensors, write_tensors
from purvey.train.checkpoint import Snapshot, write_checkpoint
from purvey.train.state import RunState


def entry(start: int, end: int, *, shape: list[int] | None = None, dtype: str = "F32") -> Any:
    dimensions = [(end - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": dimensions, "data_offsets": [start, end]}


def write(path: Path, header: Any, num_bytes: int) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(num_bytes))
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}
    write_tensors(tensors, tmp_path / "x.safetensors")
    assert read_header(tmp_path / "x.safetensors")["a"].shape == (2, 3)
    again = read_tensors(tmp_path / "x.safetensors")
    assert torch.equal(again["a"], tensors["a"])
    assert torch.equal(again["b"], tensors["b"])


def test_the_bytes_are_those_of_the_reference_library(tmp_path: Path) -> None:
    dtypes = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64]
    dtypes += [torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
    tensors = {f"{place}.é": torch.arange(5).to(dtype) for place, dtype in enumerate(dtypes)}
    tensors |= {"scalar": torch.tensor(2.5), "none": torch.zeros(0, 3), "b": torch.ones(2, 2)}
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    digest = write_tensors(tensors, ours)
    save_file(tensors, theirs, metadata={"format": "pt"})
    assert ours.read_bytes() == theirs.read_bytes()
    assert digest == hashlib.sha256(theirs.read_bytes()).hexdigest()


def test_tensors_that_share_memory_are_written_each(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    path = tmp_path / "x.safetensors"
    write_tensors({"a": whole, "tied": whole, "row": whole[0]}, path)
    again = read_tensors(path)
    assert torch.equal(again["a"], whole)
    assert torch.equal(again["tied"], whole)
    assert torch.equal(again["row"], whole[0])


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """The operating system refuses longer files, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_the_system_refuses_to_write_is_an_os_error_with_its_number(tmp_path: Path) -> None:
    large = {"a": torch.zeros(10_000)}
    snapshot = Snapshot(state=RunState(), model=large, optimizer={}, best=None)
    with files_of_at_most(4_096):
        with pytest.raises(OSError, match=r"x\.safetensors") as model:
            write_tensors(large, tmp_path / "x.safetensors")
        with pytest.raises(OSError, match=r"model\.safetensors") as checkpoint:
            write_checkpoint(snapshot, tmp_path, run_digest="run")
    assert model.value.errno == checkpoint.value.errno == errno.EFBIG


def test_half_precision_is_widened(tmp_path: Path) -> None:
    write_tensors({"a": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "x.safetensors")
    assert read_tensors(tmp_path / "x.safetensors")["a"].dtype == torch.float32


@pytest.mark.parametrize(
    ("header", "num_bytes", "complaint"),
    [
        ({"a": entry(0, 8), "b": entry(12, 16)}, 16, "hole"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "overlap"),
        ({"a": entry(0, 8)}, 12, "cover"),
        ({"a": entry(0, 16)}, 12, "cover"),
        ({"a": entry(0, 8, shape=[3])}, 8, "shape"),
        ({"a": entry(0, 8, shape=[-1, -2])}, 8, "impossible"),
        ({"a": entry(0, 8, shape=[2**47, 2**47, 0])}, 8, "shape"),
        ({"a": entry(0, 8, dtype="PICKLE")}, 8, "type"),
        ({"a": entry(0, 4, shape=[1] * 9)}, 4, "dimensions"),
        ({"a": entry(0, 0, shape=[0, 2**40, 2**40])}, 0, "shape"),
        ({"a": entry(0, 0, shape=[0]) | {"extra": [[]]}}, 0, "more than"),
        ({"a" * 9_000: 3}, 4, r"a{199}'"),
        ({"a": entry(0, 4, dtype="F" * 9_000)}, 4, r"F{39}'"),
        ({"a": {"dtype": "F32"}}, 4, "incompletely"),
        ({"a": 3}, 4, "incompletely"),
        ([], 0, "object"),
        (b'{"a": 1, "a": 2}', 0, "duplicates"),
        (b"{", 0, "JSON"),
        (b"[" * 100_000, 0, "JSON"),
    ],
)
def test_a_wrong_header_is_refused(
    tmp_path: Path, header: Any, num_bytes: int, complaint: str
) -> None:
    path = write(tmp_path / "x.safetensors", header, num_bytes)
    with pytest.raises(InvalidCheckpointError, match=complaint):
        read_tensors(path)


def test_a_huge_announced_header_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(InvalidCheckpointError, match="header"):
        read_header(path)
    path.write_bytes(b"\x01")
    with pytest.raises(InvalidCheckpointError, match="header"):
        read_header(path)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors({"weight": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(InvalidCheckpointError, match="'weight'"):
        read_tensors(path)
