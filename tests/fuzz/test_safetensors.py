"""Mutated safetensors files: refused in our words, or read as the format's own library does."""

import itertools
import json
import os
import resource
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
import safetensors

from purvey.contracts.tensor_header import MAX_HEADER_BYTES
from purvey.errors import InvalidCheckpointError
from purvey.models.folder import safetensors_file
from purvey.registry import safetensors_header
from tests.fuzz.mutations import assembled, mutants, originals

if TYPE_CHECKING:
    from tests.fuzz.conftest import Tell

MEASURED = 50
"""One file in so many is read with its memory measured."""
SPARE_BYTES = 256 * 2**10
"""What reading one of these small files may allocate; none of them announces less than it is."""


class Entry(Protocol):
    """What both parsers tell of a tensor."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


Parser = Callable[[Path], Mapping[str, Entry]]
PARSERS: dict[str, Parser] = {
    "registry": safetensors_header.read_header,
    "loader": safetensors_file.read_header,
}
Told = dict[str, tuple[str, tuple[int, ...]]]


def read(parser: Parser, path: Path) -> Told | None:
    """Return what a parser tells of a file; None if it refuses. Nothing else may be raised."""
    try:
        found = parser(path)
    except InvalidCheckpointError as error:
        refusal = error.text
    else:
        return {name: (entry.dtype, entry.shape) for name, entry in found.items()}
    assert len(refusal.encode()) < 1_000  # an answer is UTF-8
    return None


def by_the_library(data: bytes) -> Told:
    """Return what the format's own library tells of a file.

    Raises:
        SafetensorError: It refuses the file.
    """
    entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]  # it has no types
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries}


def measured(parser: Parser, path: Path, *, spare_bytes: int = SPARE_BYTES) -> Told | None:
    """Read a file as `read` does, and assert that little memory was taken."""
    tracemalloc.start()
    try:
        found = read(parser, path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < spare_bytes, peak_bytes
    return found


@contextmanager
def file_in_memory() -> Iterator[tuple[Path, int]]:
    """Yield the path of a file without a disk, and its descriptor."""
    descriptor = os.memfd_create("mutant.safetensors")
    try:
        yield Path(f"/proc/self/fd/{descriptor}"), descriptor
    finally:
        os.close(descriptor)


def judge(files: Iterable[bytes]) -> Counter[str]:
    """Read every file with both parsers, and assert what this module promises."""
    with file_in_memory() as (path, descriptor):
        return _judge(files, path, descriptor)


def _judge(files: Iterable[bytes], path: Path, descriptor: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for number, data in enumerate(files):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)
        reader = measured if number % MEASURED == 0 else read
        for name, parser in PARSERS.items():
            told = reader(parser, path)
            seen[f"{name} {'refused' if told is None else 'accepted'}"] += 1
            if told is not None:
                assert told == by_the_library(data), data
                if name == "loader":
                    seen[f"tensors {_load(path, told)}"] += 1
    return seen


def _load(path: Path, told: Told) -> str:
    try:
        tensors = safetensors_file.read_tensors(path)
    except InvalidCheckpointError as error:
        is_finite = "not finite" not in error.text
    else:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        assert shapes == {name: shape for name, (_, shape) in told.items()}
        return "loaded"
    assert not is_finite, "what a header lets in, its tensors do not"
    return "not finite"


def _mutants(seed: int, num_files: int) -> Iterator[bytes]:
    return itertools.islice(mutants(seed), num_files)


def test_what_is_not_changed_is_accepted() -> None:
    valid = [assembled(json.dumps(header).encode(), body) for header, body in originals()]
    seen = judge(valid)
    assert seen["registry accepted"] == seen["loader accepted"] == len(valid)


def test_changed_files_are_refused_or_read_as_the_library_reads_them() -> None:
    seen = judge(_mutants(0, 5_000))
    assert seen["registry accepted"] + seen["registry refused"] == 5_000
    assert min(seen["registry accepted"], seen["registry refused"], seen["tensors loaded"]) > 200


def test_a_header_at_its_cap_takes_no_more_than_one_of_as_many_tensors(tmp_path: Path) -> None:
    """What a parser makes of a mark takes many times its byte, unless marks are counted first."""
    path = tmp_path / "model.safetensors"
    for filling in (b"[],", b"{},", b"257,", b'"ab",', b'"a":1,'):
        opening = b"{" if b":" in filling else b'{"a":['
        room = MAX_HEADER_BYTES - len(opening)
        path.write_bytes(assembled(opening + filling * (room // len(filling)), b""))
        for parser in PARSERS.values():
            assert measured(parser, path, spare_bytes=2 * MAX_HEADER_BYTES) is None, filling


@pytest.mark.faults
@pytest.mark.timeout(7_200)
def test_a_million_changed_files(fresh_seed: int, tell: "Tell") -> None:
    before_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024
    seen = judge(_mutants(fresh_seed, 1_000_000))
    taken_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024 - before_bytes
    tell(f"{dict(sorted(seen.items()))}, memory +{taken_bytes >> 20} MiB")
    assert seen["registry accepted"] + seen["registry refused"] == 1_000_000
    # Opening a file takes some 320 bytes in the library or in torch that do not come back.
    assert taken_bytes - 512 * seen["tensors loaded"] < MAX_HEADER_BYTES
