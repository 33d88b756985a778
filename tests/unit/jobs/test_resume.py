"""Which checkpoint a run goes on from."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from purvey.contracts.records import CheckpointRecord
from purvey.jobs.job_folder import JobFolder
from purvey.jobs.resume import choose


@pytest.fixture
def home(tmp_path: Path) -> JobFolder:
    home = JobFolder(tmp_path / "jobs", "job_1")
    home.prepare(1)
    return home


def save(home: JobFolder, step: int) -> CheckpointRecord:
    folder = home.work / f"step-{step}"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights" * step)
    digest = hashlib.sha256(b"weights" * step).hexdigest()
    manifest = json.dumps({"step": step, "files": {"model.safetensors": digest}}).encode()
    (folder / "manifest.json").write_bytes(manifest)
    return CheckpointRecord(
        id=f"ftckpt_{step}",
        job_id="job_1",
        step=step,
        folder=folder.name,
        digest=hashlib.sha256(manifest).hexdigest(),
        metrics={},
        created_at=0.0,
    )


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def halve(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[3] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))


def lose_a_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def swap_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b'{"files": {}}')


DAMAGE = [empty, halve, flip_a_bit, lose_a_file, lose_the_manifest, swap_the_manifest]


def test_there_may_be_none(home: JobFolder) -> None:
    point = choose([], home)
    assert (point.checkpoint, point.is_lost) == (None, False)


def test_the_newest_whole_one_is_chosen(home: JobFolder) -> None:
    old, new = save(home, 1), save(home, 2)
    point = choose([new, old], home)
    assert (point.checkpoint, point.corrupt) == (new, ())


@pytest.mark.row("FIL-19")
@pytest.mark.row("CRA-07")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_passed_over_and_named(
    home: JobFolder, damage: Callable[[Path], None]
) -> None:
    old, new = save(home, 1), save(home, 2)
    damage(home.work / new.folder)
    point = choose([new, old], home)
    assert (point.checkpoint, point.corrupt, point.is_lost) == (old, (new,), False)


@pytest.mark.row("FIL-19")
@pytest.mark.row("CRA-07")
def test_when_all_are_damaged_the_run_is_lost(home: JobFolder) -> None:
    old, new = save(home, 1), save(home, 2)
    for checkpoint in (old, new):
        empty(home.work / checkpoint.folder)
    point = choose([new, old], home)
    assert (point.checkpoint, point.corrupt, point.is_lost) == (None, (new, old), True)


def test_pruned_ones_are_no_damage_while_another_is_left(home: JobFolder) -> None:
    oldest, old, new = save(home, 1), save(home, 2), save(home, 3)
    shutil.rmtree(home.work / oldest.folder)
    empty(home.work / new.folder)
    assert choose([new, old, oldest], home).checkpoint == old
    shutil.rmtree(home.work / old.folder)
    assert choose([new, old, oldest], home).is_lost


def test_when_all_are_gone_the_run_starts_anew_and_says_so(home: JobFolder) -> None:
    saved = [save(home, 2), save(home, 1)]
    shutil.rmtree(home.work)
    point = choose(saved, home)
    assert (point.checkpoint, point.corrupt, point.is_lost) == (None, (), False)
    (level, warning), (_, start) = point.story(attempt=2)
    assert (level, start) == ("warn", "Attempt 2 starts.")
    assert warning.startswith("checkpoint_missing: none of its 2 checkpoints")


def test_an_absolute_path_of_an_earlier_version_is_followed_when_the_data_has_moved(
    home: JobFolder, tmp_path: Path
) -> None:
    named = save(home, 1)
    old = msgspec.structs.replace(named, folder=str(home.work / named.folder))
    assert choose([old], home).checkpoint == old
    (tmp_path / "jobs").rename(tmp_path / "moved")
    moved = JobFolder(tmp_path / "moved", "job_1")
    assert choose([old], moved).checkpoint == old
    assert choose([named], moved).checkpoint == named
    assert moved.checkpoint(old.folder) == moved.checkpoint(named.folder)
