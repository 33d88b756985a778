"""Checkpoints that several ranks write: one set of files, complete or absent, for any number."""

import errno
import queue
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from purvey.errors import IntegrityError, InternalError
from purvey.models.folder.safetensors_file import write_tensors
from purvey.train.checkpoint import INDEX, Snapshot, Written, read_checkpoint
from purvey.train.saving import shares
from purvey.train.saving.regions import Piece, Region, Spread, chunk, whole_of
from purvey.train.saving.shares import Held, Sharing
from purvey.train.saving.stored import Stored, stored_file
from purvey.train.state import RunState

RUN = "run"
WAIT_S = 20.0


@dataclass
class Desk:
    """What ranks that are threads tell each other."""

    size: int
    claims: list["queue.Queue[bool]"] = field(default_factory=list)
    mail: list["queue.Queue[bytes | None]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.claims = [queue.Queue() for _ in range(self.size)]
        self.mail = [queue.Queue() for _ in range(self.size)]


@dataclass(frozen=True)
class Writer:
    """One of them."""

    desk: Desk
    rank: int

    @property
    def size(self) -> int:
        return self.desk.size

    def agreed(self, claim: object) -> bool:
        if self.rank:
            return self.desk.claims[self.rank].get(timeout=WAIT_S)
        for others in self.desk.claims[1:]:
            others.put(bool(claim))
        return bool(claim)

    def gathered(self, payload: bytes) -> list[bytes]:
        if self.rank:
            self.desk.mail[self.rank].put(payload)
            return []
        found = [box.get(timeout=WAIT_S) for box in self.desk.mail[1:]]
        if None in found:
            raise RuntimeError("a rank is gone")
        return [payload for payload in found if payload is not None]


def tensors(step: int = 0) -> dict[str, Tensor]:
    """Weights of which ranks hold blocks, unequal ones and none, and what all of them hold."""
    sizes = {"tall": (7, 3), "wide": (2, 5), "thin": (1, 4), "long": (6,)}
    found = {
        name: torch.randn(shape, generator=torch.Generator().manual_seed(n + 10 * step))
        for n, (name, shape) in enumerate(sizes.items())
    }
    return found | {"shared": torch.arange(9.0) + step, "count": torch.tensor(float(step))}


DIMS = {"tall": 0, "wide": 1, "thin": 0, "long": 0}


def held(name: str, shape: torch.Size, *, rank: int, size: int, dims: dict[str, int]) -> Held:
    start, block = [0] * len(shape), list(shape)
    dim = dims[name]
    start[dim], block[dim] = chunk(shape[dim], rank=rank, size=size)
    return Held(shape=tuple(shape), region=Region(start=tuple(start), shape=tuple(block)))


def part_of(
    whole: dict[str, Tensor], *, rank: int, size: int, dims: dict[str, int]
) -> tuple[dict[str, Tensor], Callable[[str, Tensor], Held | None]]:
    """Return what a rank holds, and what says so."""
    blocks, places = dict(whole), dict[str, Held]()
    for name in dims:
        blocks[name] = _chunk(whole[name], dims[name], rank, size)
        places[name] = held(name, whole[name].shape, rank=rank, size=size, dims=dims)
    return blocks, lambda name, _: places.get(name)


def _chunk(tensor: Tensor, dim: int, rank: int, size: int) -> Tensor:
    """Divide as torch does, whom `chunk` must agree with; a rank behind the last holds nothing."""
    chunks = tensor.chunk(size, dim)
    return chunks[rank] if rank < len(chunks) else tensor.narrow(dim, tensor.shape[dim], 0)


def snapshot(model: dict[str, Tensor], step: int) -> Snapshot:
    return Snapshot(state=RunState(step=step), model=model, optimizer={}, best=model, average=None)


def write(
    root: Path, *, size: int, step: int = 1, dims: dict[str, int] = DIMS, dies: int | None = None
) -> Written | None:
    """Have that many ranks write one checkpoint; one may die before its share is heard of."""
    desk = Desk(size)
    whole = tensors(step)

    def work(rank: int) -> Written | None:
        blocks, place = part_of(whole, rank=rank, size=size, dims=dims)
        if rank and rank == dies:
            desk.mail[rank].put(None)
            return None
        sharing = Sharing(Writer(desk, rank), place)
        return sharing.write(snapshot(blocks, step), root, run_digest=RUN)

    with ThreadPoolExecutor(size) as threads:
        others = [threads.submit(work, rank) for rank in range(1, size)]
        first = threads.submit(work, 0)
        assert [other.result() for other in others] == [None] * (size - 1)
        return first.result()


@given(length=st.integers(1, 20), size=st.integers(1, 9))
def test_ranks_hold_what_torch_gives_them(length: int, size: int) -> None:
    numbers = torch.arange(length)
    for rank in range(size):
        start, count = chunk(length, rank=rank, size=size)
        assert numbers[start : start + count].tolist() == _chunk(numbers, 0, rank, size).tolist()


@pytest.mark.parametrize(("written_by", "read_by"), [(2, 1), (1, 2), (2, 3), (3, 2), (3, 5)])
def test_any_number_of_ranks_reads_what_any_number_wrote(
    tmp_path: Path, written_by: int, read_by: int
) -> None:
    """Also one that divides along another dimension, as another strategy does."""
    written = write(tmp_path, size=written_by)
    assert written is not None
    found = read_checkpoint(written.folder, run_digest=RUN)
    expected = tensors(step=1)
    assert found.best is not None
    for part in (found.model, found.best):
        assert isinstance(part, Stored)
        assert part.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(part[name], tensor)
        for dims in (DIMS, {"tall": 1, "wide": 0}):
            for rank in range(read_by):
                blocks, place = part_of(expected, rank=rank, size=read_by, dims=dims)
                for name in dims:
                    place_here = place(name, blocks[name])
                    assert place_here is not None
                    assert torch.equal(part.block(name, place_here.region), blocks[name])
    assert found.state.step == 1


def test_every_rank_writes_its_share(tmp_path: Path) -> None:
    written = write(tmp_path, size=2)
    assert written is not None
    sizes = {path.name: path.stat().st_size for path in written.folder.glob("model-*.safetensors")}
    assert sizes.keys() == {"model-0-of-2.safetensors", "model-1-of-2.safetensors"}
    whole = sum(tensor.nbytes for tensor in tensors().values())
    assert all(size < whole + 600 for size in sizes.values())  # headers are longer than numbers
    names = [set(stored_file(written.folder / f"model-{n}-of-2.safetensors")) for n in (0, 1)]
    assert ("shared" in names[0]) != ("shared" in names[1]), "what all hold is written once"


def test_a_set_that_lacks_a_share_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, size=2, step=1)
    with pytest.raises(RuntimeError, match="gone"):
        write(tmp_path, size=2, step=2, dies=1)
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-00000001"]
    read_checkpoint(tmp_path / "step-00000001", run_digest=RUN)
    again = write(tmp_path, size=3, step=2)  # what was left aside is in nobody's way
    assert again is not None
    assert torch.equal(
        read_checkpoint(again.folder, run_digest=RUN).model["tall"], tensors(2)["tall"]
    )


def test_a_full_disk_of_one_rank_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = write_tensors

    def refused(found: dict[str, Tensor], path: Path) -> str:
        if path.name.startswith("best-1"):
            raise OSError(errno.ENOSPC, "full", str(path))
        return plain(found, path)

    monkeypatch.setattr(shares, "write_tensors", refused)
    desk = Desk(2)
    blocks, place = part_of(tensors(), rank=1, size=2, dims=DIMS)
    (tmp_path / ".writing-00000001").mkdir()
    desk.claims[1].put(item=True)
    with pytest.raises(OSError, match="full"):
        Sharing(Writer(desk, 1), place).write(snapshot(blocks, 1), tmp_path, run_digest=RUN)
    assert desk.mail[1].empty(), "the first rank must not hear of a share that is not there"


def test_ranks_that_disagree_about_what_they_hold_write_no_checkpoint(tmp_path: Path) -> None:
    """The first holds the rows of one of two, and nobody the rest."""
    desk = Desk(1)
    blocks, place = part_of(tensors(), rank=0, size=2, dims=DIMS)
    with pytest.raises(InternalError, match=r"no rank has written all of 'model/\w+'"):
        Sharing(Writer(desk, 0), place).write(snapshot(blocks, 1), tmp_path, run_digest=RUN)
    assert list(tmp_path.glob("step-*")) == []


def test_a_step_that_is_there_is_kept_and_old_sets_go(tmp_path: Path) -> None:
    first = write(tmp_path, size=2, step=1)
    assert first == write(tmp_path, size=3, step=1)
    for step in (2, 3):
        write(tmp_path, size=2, step=step)
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == [
        "step-00000002",
        "step-00000003",
    ]


@pytest.mark.parametrize("name", ["model-1-of-2.safetensors", INDEX])
def test_damage_is_seen(tmp_path: Path, name: str) -> None:
    written = write(tmp_path, size=2)
    assert written is not None
    damaged = tmp_path / "damaged"
    shutil.copytree(written.folder, damaged)
    data = bytearray((damaged / name).read_bytes())
    data[-3] ^= 4
    (damaged / name).write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=f"{name!r} of checkpoint 'damaged' changed"):
        read_checkpoint(damaged, run_digest=RUN)
    (damaged / name).unlink()
    with pytest.raises(IntegrityError, match="not complete"):
        read_checkpoint(damaged, run_digest=RUN)


LEFT, RIGHT = Region(start=(0,), shape=(2,)), Region(start=(2,), shape=(2,))


@pytest.mark.parametrize(
    "regions",
    [
        [LEFT],
        [LEFT, LEFT],
        [LEFT, Region(start=(1,), shape=(2,))],
        [LEFT, Region(start=(3,), shape=(2,))],
        [LEFT, Region(start=(2, 0), shape=(2, 1))],
    ],
    ids=["missing", "twice", "overlapping", "outside", "of another rank"],
)
def test_a_tensor_of_other_than_all_its_numbers_is_not_whole(regions: list[Region]) -> None:
    def spread(blocks: list[Region]) -> Spread:
        pieces = tuple(Piece(file=f"{n}", region=region) for n, region in enumerate(blocks))
        return Spread(shape=(4,), pieces=pieces)

    assert spread([LEFT, RIGHT]).is_whole
    assert spread([whole_of((4,))]).is_whole
    assert not spread(regions).is_whole
