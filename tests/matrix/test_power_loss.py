"""CRA-13: power goes at any moment; what was acknowledged is there, and nothing by half."""

import hashlib
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from purvey.access.pepper import read_or_create
from purvey.app.data_folder import DataFolder
from purvey.jobs import resume
from purvey.jobs.job_folder import JobFolder
from purvey.store import projects, schema
from purvey.store.artifacts import Artifacts
from purvey.store.blobs import Blobs
from purvey.store.database import Database
from purvey.testing.clock import FakeClock
from tests.matrix.power import Recorder, crashes

pytestmark = pytest.mark.row("CRA-13")


def test_uploads(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    blobs, recorder = Blobs(root / "blobs"), Recorder(root=root)
    contents = (b"first " * 100, b"second " * 100, b"third " * 100)
    with recorder.recording():
        for data in contents:
            stored = blobs.put_bytes(data)
            recorder.promise(stored.sha256, _holds(f"blobs/{stored.sha256}", data))
        gone = hashlib.sha256(contents[0]).hexdigest()
        recorder.release(gone)
        blobs.remove(gone)
    num_states = 0
    for moment, place in crashes(recorder, tmp_path / "crashed"):
        for check in moment.promises.values():
            check(place)
        found = Blobs(place / "blobs")
        assert {path.name for path in (place / "blobs").iterdir()} == set(found.names())
        for name in found.names():
            assert hashlib.sha256(found.path(name).read_bytes()).hexdigest() == name
        num_states += 1
    assert num_states >= 15


def _holds(path: str, data: bytes) -> Callable[[Path], None]:
    def check(place: Path) -> None:
        assert (place / path).read_bytes() == data

    return check


def test_artifacts(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    artifacts, recorder = Artifacts(root / "artifacts"), Recorder(root=root)
    with recorder.recording():
        for content in (b"one", b"two", b"one"):
            output = root / "output"
            (output / "inner").mkdir(parents=True)
            (output / "inner" / "model.safetensors").write_bytes(content * 100)
            (output / "manifest.json").write_bytes(content)
            artifact = artifacts.publish(output)
            artifacts.release(artifact.digest)
            recorder.promise(artifact.digest, _verified(artifact.digest))
        recorder.release(artifact.digest)
        aside = artifacts.set_aside(artifact.digest)
        assert aside is not None
        artifacts.discard(aside)
    _check_all(recorder, tmp_path / "crashed")


def _verified(digest: str) -> Callable[[Path], None]:
    return lambda place: Artifacts(place / "artifacts").verify(digest)


@pytest.mark.parametrize("max_states", [4, pytest.param(256, marks=pytest.mark.faults)])
def test_checkpoints(tmp_path: Path, max_states: int) -> None:
    import torch

    from purvey.train.checkpoint import Snapshot, read_checkpoint, write_checkpoint
    from purvey.train.state import RunState

    root = tmp_path / "root"
    (root / "jobs").mkdir(parents=True)
    recorder, home = Recorder(root=root), JobFolder(root / "jobs", "job_1")

    def whole(folder: Path, digest: str) -> Callable[[Path], None]:
        path = folder.relative_to(root)

        def check(place: Path) -> None:
            assert resume.is_whole(place / path, digest=digest)
            read_checkpoint(place / path, run_digest="run")

        return check

    with recorder.recording():
        home.prepare(1)
        for step in (1, 2, 3):
            tensors = {"w": torch.full((8,), float(step))}
            snapshot = Snapshot(
                state=RunState(step=step), model=tensors, optimizer=tensors, best=None
            )
            if step > 2:
                recorder.release(f"{step - 2}")  # only two are kept
            written = write_checkpoint(snapshot, home.work / "checkpoints", run_digest="run")
            recorder.promise(f"{step}", whole(written.folder, written.digest))
    _check_all(recorder, tmp_path / "crashed", max_states=max_states)


def test_a_first_start(tmp_path: Path) -> None:
    """The folders that everything lies in, and the secret, are on the disk like all else."""
    root = tmp_path / "root"
    root.mkdir()
    recorder = Recorder(root=root)

    def check(place: Path) -> None:
        for part in ("blobs", "artifacts", "jobs"):
            assert (place / "data" / part).is_dir()
        assert read_or_create(place / "data", has_keys=True) == pepper

    with recorder.recording():
        folder = DataFolder.open(root / "data")
        pepper = read_or_create(folder.root, has_keys=False)
        recorder.promise("started", check)
        folder.close()
    _check_all(recorder, tmp_path / "crashed")


def test_the_log_of_the_database_cut_anywhere(tmp_path: Path) -> None:
    """Frames are whole or not counted: what was acknowledged before the cut is there."""
    file, copy = tmp_path / "purvey.db", tmp_path / "cut.db"
    database = Database.open(f"sqlite:///{file}", clock=FakeClock())
    acknowledged: list[int] = []  # length of the log after each write
    log = Path(f"{file}-wal")
    for number in range(12):
        database.write_now(_named(f"proj_{number}"))
        acknowledged.append(log.stat().st_size)
    data = log.read_bytes()
    page, frame = 4_096, 24 + 4_096
    cuts = [size + more for size in range(32, len(data) + 1, frame) for more in (0, 1, page)]
    for cut in [0, 31, *cuts]:
        shutil.copy(file, copy)
        Path(f"{copy}-wal").write_bytes(data[:cut])
        Path(f"{copy}-shm").unlink(missing_ok=True)
        schema.prepare(copy)
        with closing(sqlite3.connect(copy)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            kept = [row[0] for row in db.execute("SELECT id FROM projects ORDER BY position")]
        least = sum(size <= cut for size in acknowledged)
        assert kept == [f"proj_{number}" for number in range(len(kept))]
        assert len(kept) == least
    database.close()


def _named(name: str) -> Callable[[Connection], object]:
    return lambda conn: projects.ensure(conn, name, name=name, now=1.0)


def test_the_recorder_notices_a_missing_fsync(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    recorder = Recorder(root=root)
    with recorder.recording():
        (root / "aside").write_bytes(b"data")
        (root / "aside").rename(root / "final")
        recorder.promise("kept", _holds("final", b"data"))
    with pytest.raises((AssertionError, FileNotFoundError)):
        _check_all(recorder, tmp_path / "crashed")


def _check_all(recorder: Recorder, scratch: Path, *, max_states: int = 8) -> None:
    """Assert of every state that what was acknowledged by then is there."""
    for moment, place in crashes(recorder, scratch, max_states=max_states):
        for check in moment.promises.values():
            check(place)
