"""Which checkpoint a run goes on from."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from purvey.contracts.records import CheckpointRecord
from purvey.jobs.resume import choose


def save(root: Path, step: int) -> CheckpointRecord:
    folder = root / f"step-{step}"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights" * step)
    digest = hashlib.sha256(b"weights" * step).hexdigest()
    manifest = json.dumps({"step": step, "files": {"model.safetensors": digest}}).encode()
    (folder / "manifest.json").write_bytes(manifest)
    return CheckpointRecord(
        id=f"ftckpt_{step}",
        job_id="job_1",
        step=step,
        folder=str(folder),
        digest=hashlib.sha256(manifest).hexdigest(),
        metrics={},
        created_at=0.0,
    )


def truncate(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


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


DAMAGE = [truncate, flip_a_bit, lose_a_file, lose_the_manifest, swap_the_manifest]


def test_there_may_be_none() -> None:
    point = choose([])
    assert (point.checkpoint, point.is_lost) == (None, False)


def test_the_newest_whole_one_is_chosen(tmp_path: Path) -> None:
    old, new = save(tmp_path, 1), save(tmp_path, 2)
    point = choose([new, old])
    assert (point.checkpoint, point.corrupt) == (new, ())


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_passed_over_and_named(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    old, new = save(tmp_path, 1), save(tmp_path, 2)
    damage(Path(new.folder))
    point = choose([new, old])
    assert (point.checkpoint, point.corrupt, point.is_lost) == (old, (new,), False)


def test_when_all_are_damaged_the_run_is_lost(tmp_path: Path) -> None:
    old, new = save(tmp_path, 1), save(tmp_path, 2)
    for checkpoint in (old, new):
        truncate(Path(checkpoint.folder))
    point = choose([new, old])
    assert (point.checkpoint, point.corrupt, point.is_lost) == (None, (new, old), True)


def test_pruned_ones_are_no_damage_while_another_is_left(tmp_path: Path) -> None:
    oldest, old, new = save(tmp_path, 1), save(tmp_path, 2), save(tmp_path, 3)
    shutil.rmtree(oldest.folder)
    truncate(Path(new.folder))
    assert choose([new, old, oldest]).checkpoint == old
    shutil.rmtree(old.folder)
    assert choose([new, old, oldest]).is_lost
