"""A backup is restored whole or not at all, and what is wrong with one is named."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.records import JobRecord
from purvey.errors import (
    InsufficientStorageError,
    IntegrityError,
    InvalidValueError,
    SettingError,
    StorageUnavailableError,
    UnsupportedValueError,
)
from purvey.store import jobs, schema
from purvey.store.backup import restoring
from purvey.store.backup.copying import hash_file
from purvey.store.backup.manifest import BackupFile, BackupManifest

if TYPE_CHECKING:
    from tests.unit.store.backup.conftest import Server


@pytest.fixture
def backup(server: "Server", tmp_path: Path) -> Path:
    for content in (b"a", b"b", b"c"):
        server.upload(content)
    server.train("m", b"one", b"two")
    server.add_key()
    server.back_up(tmp_path / "backup")
    return tmp_path / "backup"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tmp_path / "restored" / "data"


def restore(source: Path, data_dir: Path) -> BackupManifest:
    return restoring.restore_backup(source, data_dir, moved=lambda _: None)


def paths(backup: Path) -> list[str]:
    listed = json.loads((backup / "backup.json").read_text())["files"]
    return [file["path"] for file in listed]


def edit(backup: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((backup / "backup.json").read_text())
    change(manifest)
    (backup / "backup.json").write_text(json.dumps(manifest))


def nothing_was_made(new: Path) -> bool:
    return not new.parent.exists() or list(new.parent.iterdir()) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_every_file_comes_back(backup: Path, new: Path, is_there: bool) -> None:
    if is_there:
        new.mkdir(parents=True)
    restore(backup, new)
    assert sorted(p.relative_to(new).as_posix() for p in new.rglob("*") if p.is_file()) == sorted(
        paths(backup)
    )
    for path in paths(backup):
        assert (new / path).read_bytes() == (backup / path).read_bytes()
    schema.prepare(new / "purvey.db")
    assert [entry.name for entry in new.parent.iterdir()] == ["data"]


def test_jobs_that_ran_are_queued_again_at_no_cost(
    server: "Server", new: Path, tmp_path: Path
) -> None:
    """The last attempt too: it is as if the server had been stopped, not as if it had died."""
    for wanted in ("run", "cancel"):
        job = JobRecord(
            id=f"job_{wanted}",
            project_id=DEFAULT_PROJECT,
            key_id="key_1",
            api="training",
            kind="training",
            status="running",
            created_at=0.0,
            recipe={},
            recipe_digest="",
            attempt=3,
            fence=5,
            lease="lease_1",
            lease_expires_at=9.0,
            wanted="run" if wanted == "run" else "cancel",
        )
        server.database.write_now(lambda conn, job=job: jobs.insert(conn, job))  # type: ignore[misc]  # a default cannot be inferred
    server.back_up(tmp_path / "backup")
    restore(tmp_path / "backup", new)
    with closing(sqlite3.connect(new / "purvey.db")) as database:
        rows = database.execute(
            "SELECT status, attempt, fence, lease, lease_expires_at FROM jobs ORDER BY position"
        ).fetchall()
    assert rows == [("queued", 2, 5, None, None), ("running", 3, 5, "lease_1", 9.0)]


def test_a_file_that_is_missing_changed_or_cut_is_named(backup: Path, new: Path) -> None:
    for path in paths(backup):
        file = backup / path
        content = file.read_bytes()
        for damaged in (content[:-1], content + b"x", bytes([content[0] ^ 1]) + content[1:]):
            file.write_bytes(damaged)
            with pytest.raises(IntegrityError, match=f"damaged: '{path}'"):
                restore(backup, new)
        file.unlink()
        with pytest.raises(IntegrityError, match=f"incomplete: '{path}'"):
            restore(backup, new)
        file.write_bytes(content)
    assert nothing_was_made(new)
    restore(backup, new)


def test_a_file_that_the_manifest_leaves_out_is_named(backup: Path, new: Path) -> None:
    original = (backup / "backup.json").read_bytes()
    for path in paths(backup):
        edit(
            backup,
            lambda m, path=path: m.update(files=[f for f in m["files"] if f["path"] != path]),  # type: ignore[misc]  # a default cannot be inferred
        )
        with pytest.raises(IntegrityError, match=f"incomplete: '{path}'"):
            restore(backup, new)
        (backup / "backup.json").write_bytes(original)
    assert nothing_was_made(new)


def test_a_file_and_its_entry_changed_together_are_noticed(backup: Path, new: Path) -> None:
    path = next(path for path in paths(backup) if path.startswith("blobs/"))
    (backup / path).write_bytes(b"forged")
    forged = hash_file(backup, path, moved=lambda _: None)

    def forge(manifest: dict[str, Any]) -> None:
        for file in manifest["files"]:
            if file["path"] == path:
                file.update(num_bytes=forged.num_bytes, sha256=forged.sha256)

    edit(backup, forge)
    with pytest.raises(IntegrityError, match=f"damaged: '{path}'"):
        restore(backup, new)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}'])
def test_a_manifest_that_cannot_be_read(backup: Path, new: Path, content: bytes) -> None:
    (backup / "backup.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"'backup\.json' cannot be read"):
        restore(backup, new)


def test_what_is_no_backup(backup: Path, new: Path, tmp_path: Path) -> None:
    (backup / "backup.json").unlink()
    for source in (backup, backup / "purvey.db", tmp_path / "nowhere"):
        with pytest.raises(IntegrityError, match="not a finished backup"):
            restore(source, new)
    assert nothing_was_made(new)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "blobs/x", "jobs/a", "artifacts/%s/../../x"]
)
def test_a_path_that_no_backup_has(backup: Path, new: Path, path: str) -> None:
    name = path.replace("%s", "0" * 64)
    edit(backup, lambda m: m["files"].append({"path": name, "num_bytes": 0, "sha256": ""}))
    with pytest.raises(IntegrityError, match="it names"):
        restore(backup, new)


def test_a_newer_format_is_refused(backup: Path, new: Path) -> None:
    edit(backup, lambda m: m.update(format=2))
    with pytest.raises(UnsupportedValueError, match="format 2"):
        restore(backup, new)


def test_a_newer_schema_is_refused(backup: Path, new: Path) -> None:
    with closing(sqlite3.connect(backup / "purvey.db")) as newer, newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    file = hash_file(backup, "purvey.db", moved=lambda _: None)

    def admit(manifest: dict[str, Any]) -> None:
        others = [f for f in manifest["files"] if f["path"] != file.path]
        manifest["files"] = [*others, {"path": file.path, "sha256": file.sha256} | _size(file)]

    edit(backup, admit)
    with pytest.raises(SettingError, match="'9999'"):
        restore(backup, new)
    assert nothing_was_made(new)


def _size(file: BackupFile) -> dict[str, int]:
    return {"num_bytes": file.num_bytes}


def test_a_target_that_is_not_empty_is_refused(backup: Path, new: Path) -> None:
    new.mkdir(parents=True)
    (new / "mine").write_bytes(b"")
    with pytest.raises(InvalidValueError, match="not empty") as caught:
        restore(backup, new)
    assert caught.value.param == "data_dir"
    assert [entry.name for entry in new.iterdir()] == ["mine"]


def test_a_copy_that_differs_is_not_kept(
    backup: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differ(*_: object, **__: object) -> BackupFile:
        return BackupFile(path="purvey.db", num_bytes=1, sha256="")

    monkeypatch.setattr(restoring, "copy_file", differ)
    with pytest.raises(IntegrityError, match="damaged"):
        restore(backup, new)
    assert nothing_was_made(new)


def test_disks_that_refuse(backup: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def unreadable(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error", "blob")

    with monkeypatch.context() as patched:
        patched.setattr(restoring, "copy_file", full)
        with pytest.raises(InsufficientStorageError):
            restore(backup, new)
    monkeypatch.setattr(restoring, "hash_file", unreadable)
    with pytest.raises(StorageUnavailableError, match="'blob': Input/output"):
        restore(backup, new)
    assert nothing_was_made(new)
