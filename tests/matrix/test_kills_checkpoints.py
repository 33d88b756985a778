"""A job whose newest checkpoints were damaged, or are gone, when its server comes back."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.matrix.invariants import check_store, job_row
from tests.matrix.kills import SETTINGS, Disturbed, World, messages, run_with, wait_until_ended
from tests.matrix.served import serving

PLAN = "eval.done=delay:0.6#1+,ckpt.committed=kill9#2"
"""The server dies when the second checkpoint is on record; its worker dies with it."""
TENSORS, MANIFEST = "model.safetensors", "manifest.json"


def _empty(newest: Path, _: Path) -> None:
    (newest / TENSORS).write_bytes(b"")


def _halve(newest: Path, _: Path) -> None:
    data = (newest / TENSORS).read_bytes()
    (newest / TENSORS).write_bytes(data[: len(data) // 2])


def _flip_a_bit(newest: Path, _: Path) -> None:
    data = bytearray((newest / TENSORS).read_bytes())
    data[-3] ^= 4
    (newest / TENSORS).write_bytes(bytes(data))


def _lose_a_shard(newest: Path, _: Path) -> None:
    (newest / "optimizer.safetensors").unlink()


def _put_the_older_manifest(newest: Path, older: Path) -> None:
    shutil.copy(older / MANIFEST, newest / MANIFEST)


def _write_a_wrong_hash(newest: Path, _: Path) -> None:
    manifest = json.loads((newest / MANIFEST).read_bytes())
    manifest["files"][TENSORS] = "0" * 64
    (newest / MANIFEST).write_text(json.dumps(manifest))


Damage = Callable[[Path, Path], None]
DAMAGES: list[Damage] = [
    _empty, _halve, _flip_a_bit, _lose_a_shard, _put_the_older_manifest, _write_a_wrong_hash,
]  # fmt: skip


def _saved(root: Path, job_id: str) -> list[Path]:
    """List a job's checkpoints on the disk, the oldest first."""
    return sorted((root / "data" / "jobs" / job_id / "work" / "checkpoints").glob("step-*"))


def _fall_back(world: World, root: Path, name: str, damage: Damage) -> None:
    """Damage the newest checkpoint and hold the job to its undisturbed twin."""
    steps: list[int] = []

    def harm(jobs: dict[str, str]) -> None:
        older, newest = _saved(root, jobs[name])
        steps.extend(int(folder.name.removeprefix("step-")) for folder in (older, newest))
        damage(newest, older)

    run = run_with(world, root, PLAN, [name], while_down=harm)
    said = messages(root, run.jobs[name])
    older_step, newest_step = steps
    warning = f"checkpoint_corrupt: passed over the damaged checkpoint of step {newest_step}."
    start = f"Attempt 2 starts from the checkpoint of step {older_step}."
    assert said[said.index(warning) + 1] == start
    world.check(root, run.jobs)


@pytest.mark.faults
@pytest.mark.row("CRA-03", "CRA-07")
def test_a_job_whose_server_died_goes_on_from_the_checkpoint_before_a_damaged_one(
    world: World, tmp_path: Path
) -> None:
    _fall_back(world, tmp_path, "language", _flip_a_bit)


@pytest.mark.faults
@pytest.mark.row("CRA-07")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["table", "adapter"])
def test_every_damage_is_passed_over(
    world: World, tmp_path: Path, name: str, damage: Damage
) -> None:
    _fall_back(world, tmp_path, name, damage)


@pytest.mark.faults
@pytest.mark.row("CRA-07")
@pytest.mark.timeout(600)
def test_a_job_whose_every_checkpoint_is_damaged_fails_and_says_so(
    world: World, tmp_path: Path
) -> None:
    def harm(jobs: dict[str, str]) -> None:
        for folder in _saved(tmp_path, jobs["table"]):
            _flip_a_bit(folder, folder)

    run = run_with(world, tmp_path, PLAN, ["table"], while_down=harm)
    row = job_row(tmp_path / "data", run.jobs["table"])
    assert (row["status"], json.loads(row["error"])["code"]) == ("failed", "checkpoint_corrupt")
    check_store(tmp_path / "data")


def _interrupted(world: World, root: Path) -> Disturbed:
    """Leave a job with checkpoints behind a server that died."""
    world.copy_to(root)
    with serving(root, settings=SETTINGS, failpoints=PLAN) as served:
        run = Disturbed(jobs={"table": world.submit(served, "table", key="once")})
        assert wait_until_ended(root, run.jobs.values(), served=served)
    return run


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_restored_server_starts_its_unfinished_jobs_anew(world: World, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    run = _interrupted(world, before)
    after.mkdir()
    for words in (
        ("backup", str(tmp_path / "copy"), "--data-dir", str(before / "data")),
        ("restore", str(tmp_path / "copy"), "--data-dir", str(after / "data")),
    ):
        subprocess.run(
            [sys.executable, "-m", "purvey", *words],
            env={"PATH": os.defpath, "HOME": str(tmp_path)},
            cwd=tmp_path,
            check=True,
        )
    with serving(after, settings=SETTINGS) as served:
        wait_until_ended(after, run.jobs.values())
        assert served.stop() == 0
    said = " ".join(messages(after, run.jobs["table"]))
    assert "checkpoint_missing: none of its 2 checkpoints" in said
    assert job_row(after / "data", run.jobs["table"])["attempt"] == 1
    world.check(after, run.jobs)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_data_folder_that_was_moved_goes_on_from_its_checkpoints(
    world: World, tmp_path: Path
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    run = _interrupted(world, before)
    before.rename(after)
    with serving(after, settings=SETTINGS) as served:
        wait_until_ended(after, run.jobs.values())
        assert served.stop() == 0
    said = " ".join(messages(after, run.jobs["table"]))
    assert "starts from the checkpoint of step" in said
    world.check(after, run.jobs)
