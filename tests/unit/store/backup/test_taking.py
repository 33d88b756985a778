"""A backup is one moment and everything it names, whatever the server does meanwhile."""

import asyncio
import hashlib
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.records import CheckpointRecord, JobRecord
from purvey.errors import (
    InsufficientStorageError,
    IntegrityError,
    InvalidValueError,
    SettingError,
    StorageUnavailableError,
)
from purvey.store import checkpoints, jobs
from purvey.store.backup import copying, snapshot, taking
from purvey.store.backup.manifest import read_manifest
from purvey.store.backup.snapshot import snapshot_of
from purvey.store.backup.taking import Source, take_backup

if TYPE_CHECKING:
    from tests.unit.store.backup.conftest import Server


def once(act: Callable[[], None]) -> Callable[[int], None]:
    """Act when the first bytes are copied: after the first moment was read."""
    pending = [act]
    return lambda _: pending.pop()() if pending else None


def named_files(target: Path) -> set[str]:
    with closing(sqlite3.connect(target / "purvey.db")) as copy:
        return {sha256 for (sha256,) in copy.execute("SELECT sha256 FROM files")}


def stored(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_it_holds_everything_with_its_digest(server: "Server", tmp_path: Path) -> None:
    blob, digest = server.upload(b"rows"), server.train("m", b"one", b"two")
    server.train("empty file", b"")
    server.add_key()
    manifest = server.back_up(tmp_path / "to" / "backup")
    target = tmp_path / "to" / "backup"
    assert read_manifest(target) == manifest
    assert stored(target) == {"backup.json", *(file.path for file in manifest.files)}
    assert {f"blobs/{blob}", "secret/pepper", "purvey.db"} <= stored(target)
    assert f"artifacts/{digest}/inner/weights-1" in stored(target)
    for file in manifest.files:
        content = (target / file.path).read_bytes()
        assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert file.num_bytes == len(content)
    assert manifest.created_at == 7.0
    assert manifest.purvey == "1.2.3"
    assert [entry.name for entry in target.parent.iterdir()] == ["backup"]


def test_only_its_owner_may_read_it(server: "Server", tmp_path: Path) -> None:
    server.train("m", b"one")
    target = tmp_path / "backup"
    server.back_up(target)
    for path in (target, *target.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.name == "backup.json", path


def test_the_data_folder_is_left_as_it_was(server: "Server", tmp_path: Path) -> None:
    server.upload(b"rows")
    files = {path: path.read_bytes() for path in sorted(server.root.glob("purvey.db*"))}
    server.back_up(tmp_path / "backup")
    # The index of the log (-shm) holds the marks of readers.
    for path in files:
        if not path.name.endswith("-shm"):
            assert path.read_bytes() == files[path]
    assert sorted(server.root.glob("purvey.db*")) == list(files)


def test_a_stopped_server_can_start_afterwards(server: "Server", tmp_path: Path) -> None:
    from purvey.store import schema

    server.upload(b"rows")
    server.database.close()
    server.back_up(tmp_path / "backup")
    schema.prepare(server.root / "purvey.db")


def test_files_that_go_and_come_meanwhile(server: "Server", tmp_path: Path) -> None:
    doomed = [server.upload(b"%d" % number) for number in range(8)]
    fresh: list[str] = []

    def happen() -> None:
        for sha256 in doomed:
            server.delete(sha256)
        fresh.append(server.upload(b"new"))

    target = tmp_path / "backup"
    server.back_up(target, moved=once(happen))
    assert named_files(target) == set(fresh)
    assert {path for path in stored(target) if "blobs" in path} == {f"blobs/{fresh[0]}"}


def test_a_model_that_goes_while_it_is_copied(server: "Server", tmp_path: Path) -> None:
    kept = server.train("kept", b"1")
    gone = server.train("gone", *(b"%d" % number for number in range(5)))
    target = tmp_path / "backup"
    acts = once(lambda: asyncio.run(server.forget("gone", gone)))
    server.back_up(target, moved=acts)
    assert {path.name for path in (target / "artifacts").iterdir()} == {kept}


def test_a_missing_file_is_named_and_leaves_no_backup(server: "Server", tmp_path: Path) -> None:
    server.upload(b"a")
    lost = server.upload(b"b")
    server.blobs.remove(lost)
    with pytest.raises(IntegrityError, match=f"blobs/{lost}"):
        server.back_up(tmp_path / "to" / "backup")
    assert list((tmp_path / "to").iterdir()) == []


def test_a_missing_file_of_a_model_is_an_error(server: "Server", tmp_path: Path) -> None:
    digest = server.train("m", b"a", b"b")
    (server.artifacts.folder(digest) / "inner" / "weights-1").unlink()
    with pytest.raises(IntegrityError, match=f"artifacts/{digest}"):
        server.back_up(tmp_path / "backup")


def test_it_gives_up_when_files_go_faster_than_they_are_copied(
    server: "Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "MAX_ROUNDS", 3)
    present = {server.upload(b"first-%d" % number) for number in range(2)}
    numbers: Iterator[int] = iter(range(1_000))

    def churn(_: int) -> None:
        for sha256 in present.copy():
            present.remove(sha256)
            server.delete(sha256)
        present.update(server.upload(b"%d" % next(numbers)) for _ in range(2))

    with pytest.raises(StorageUnavailableError, match="faster"):
        server.back_up(tmp_path / "backup", moved=churn)
    assert not (tmp_path / "backup").exists()


def test_a_changed_file_is_an_error(server: "Server", tmp_path: Path) -> None:
    sha256 = server.upload(b"a")
    server.blobs.path(sha256).write_bytes(b"b")
    with pytest.raises(IntegrityError, match=f"blobs/{sha256}"):
        server.back_up(tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize("has_keys", [True, False])
def test_a_lost_secret(server: "Server", tmp_path: Path, has_keys: bool) -> None:
    (server.root / "secret" / "pepper").unlink()
    if has_keys:
        server.add_key()
        with pytest.raises(IntegrityError, match="secret/pepper"):
            server.back_up(tmp_path / "backup")
    else:
        assert [file.path for file in server.back_up(tmp_path / "backup").files] == ["purvey.db"]


def test_it_says_what_it_does_not_hold(server: "Server", tmp_path: Path) -> None:
    server.register("elsewhere", artifact=None)
    for status in ("paused", "succeeded"):
        job = JobRecord(
            id=f"job_{status}",
            project_id=DEFAULT_PROJECT,
            key_id="key_1",
            api="training",
            kind="training",
            status=status,
            created_at=0.0,
            recipe={},
            recipe_digest="",
        )
        checkpoint = CheckpointRecord(
            id=f"ckpt_{status}",
            job_id=job.id,
            step=1,
            folder="step-1",
            digest="d",
            metrics={},
            created_at=0.0,
        )
        server.database.write_now(lambda conn, job=job: jobs.insert(conn, job))  # type: ignore[misc]  # a default cannot be inferred
        server.database.write_now(lambda conn, c=checkpoint: checkpoints.insert(conn, c))  # type: ignore[misc]  # a default cannot be inferred
    manifest = server.back_up(tmp_path / "backup")
    assert manifest.models_elsewhere == ("elsewhere",)
    assert manifest.unfinished_jobs == ("job_paused",)


def test_a_moment_stands_still_while_it_is_copied(
    server: "Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "PAGES_PER_STEP", 1)
    before = server.upload(b"before")
    (tmp_path / "copy").mkdir()
    with snapshot_of(server.root / "purvey.db", is_live=True) as moment:
        server.upload(b"after")
        moment.copy_to(tmp_path / "copy" / "purvey.db")
    assert named_files(tmp_path / "copy") == {before}
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["purvey.db"]


@pytest.mark.parametrize("where", ["data", "data/jobs/backup"])
def test_a_backup_cannot_lie_in_the_data_folder(
    server: "Server", tmp_path: Path, where: str
) -> None:
    with pytest.raises(InvalidValueError, match="data folder"):
        server.back_up(tmp_path / where)


def test_a_target_that_holds_something_is_left_alone(server: "Server", tmp_path: Path) -> None:
    target = tmp_path / "backup"
    target.write_bytes(b"mine")
    with pytest.raises(InvalidValueError, match="not a folder"):
        server.back_up(target)
    target.unlink()
    target.mkdir()
    server.back_up(target)
    with pytest.raises(InvalidValueError, match="not empty") as caught:
        server.back_up(target)
    assert caught.value.param == "target"


@pytest.mark.parametrize("content", [None, b"", b"not a database, but long enough to be looked at"])
def test_what_is_no_database_of_ours(tmp_path: Path, content: bytes | None) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    if content is not None:
        (data_dir / "purvey.db").write_bytes(content)
    source = Source(data_dir=data_dir, database=data_dir / "purvey.db")
    with pytest.raises(SettingError, match="no sound database"):
        take_backup(source, tmp_path / "backup", version="1", now=0.0, moved=lambda _: None)
    assert not (tmp_path / "backup").exists()


def test_a_damaged_database_is_not_backed_up(server: "Server", tmp_path: Path) -> None:
    server.database.close()
    with closing(sqlite3.connect(server.root / "purvey.db")) as damaging:
        damaging.execute("PRAGMA journal_mode=DELETE").close()
        damaging.execute("PRAGMA writable_schema=ON").close()
        damaging.execute(
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master "
            "WHERE name = 'job_events') WHERE name = 'explanations'"
        ).close()
        damaging.commit()
    with pytest.raises(IntegrityError, match="damaged"):
        server.back_up(tmp_path / "backup")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_FULL, InsufficientStorageError),
        (sqlite3.SQLITE_IOERR, StorageUnavailableError),
    ],
)
def test_a_database_that_cannot_be_copied(
    server: "Server",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    expected: type[Exception],
) -> None:
    def refuse(*_: object) -> None:
        error = sqlite3.OperationalError("refused")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(snapshot.Snapshot, "copy_to", refuse)
    with pytest.raises(expected):
        server.back_up(tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_a_disk_that_refuses_is_named(
    server: "Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(copying, "sync_file", refuse)
    with pytest.raises(StorageUnavailableError, match=r"pepper.*Input/output"):
        server.back_up(tmp_path / "backup")
    monkeypatch.setattr("os.path.ismount", lambda _: True)
    with pytest.raises(StorageUnavailableError) as caught:
        server.back_up(tmp_path / "backup")
    assert "mount point" in caught.value.hint


def test_a_full_disk_leaves_nothing(
    server: "Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(copying, "sync_folder", full)
    with pytest.raises(InsufficientStorageError):
        server.back_up(tmp_path / "to" / "backup")
    assert list((tmp_path / "to").iterdir()) == []
