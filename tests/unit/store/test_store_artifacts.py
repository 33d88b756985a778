"""Artifacts: complete under their digest, equal content once, damage noticed."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from purvey.errors import (
    InsufficientStorageError,
    IntegrityError,
    InvalidFileError,
    NotFoundError,
    StorageUnavailableError,
)
from purvey.store import artifacts as module
from purvey.store.artifacts import ARTIFACT_MANIFEST, Artifacts


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


def output(path: Path, *, weights: bytes = b"weights") -> Path:
    (path / "inner").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(weights)
    (path / "inner" / "config.json").write_bytes(b"{}")
    return path


def test_a_folder_is_taken_over_under_its_digest(artifacts: Artifacts, tmp_path: Path) -> None:
    artifact = artifacts.publish(output(tmp_path / "out"))
    assert artifact.folder == tmp_path / "artifacts" / artifact.digest
    assert artifacts.folder(artifact.digest) == artifact.folder
    assert (artifact.folder / "inner" / "config.json").read_bytes() == b"{}"
    assert not (tmp_path / "out").exists()
    artifacts.verify(artifact.digest)


def test_equal_content_is_one_artifact(artifacts: Artifacts, tmp_path: Path) -> None:
    first = artifacts.publish(output(tmp_path / "out"))
    again = artifacts.publish(output(tmp_path / "again"))
    assert again == first
    assert not (tmp_path / "again").exists()
    assert len(list((tmp_path / "artifacts").iterdir())) == 1


def test_equal_content_that_is_published_meanwhile_stays_where_it_is(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both looked before either was there; what the first one published may be in use by then."""
    write_manifest, inodes = module._write_manifest, list[int]()

    def overtaken(folder: Path, manifest: module.ArtifactManifest) -> None:
        monkeypatch.undo()
        first = artifacts.publish(output(tmp_path / "first"))
        inodes.append(first.folder.stat().st_ino)
        write_manifest(folder, manifest)

    monkeypatch.setattr(module, "_write_manifest", overtaken)
    second = artifacts.publish(output(tmp_path / "second"))
    assert [second.folder.stat().st_ino] == inodes
    assert not (tmp_path / "second").exists()
    assert len(list((tmp_path / "artifacts").iterdir())) == 1


def test_other_content_is_another_artifact(artifacts: Artifacts, tmp_path: Path) -> None:
    first = artifacts.publish(output(tmp_path / "out"))
    second = artifacts.publish(output(tmp_path / "other", weights=b"Weights"))
    assert first.digest != second.digest


def test_publishing_again_after_a_kill_before_the_rename(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    folder = output(tmp_path / "out")
    (folder / ARTIFACT_MANIFEST).write_bytes(b"half a mani")
    artifacts.verify(artifacts.publish(folder).digest)


@pytest.mark.parametrize("damage", ["flip", "cut", "lose", "add", "swap"])
def test_damage_is_noticed(artifacts: Artifacts, tmp_path: Path, damage: str) -> None:
    artifact = artifacts.publish(output(tmp_path / "out"))
    weights = artifact.folder / "model.safetensors"
    match damage:
        case "flip":
            weights.write_bytes(b"Weights")
        case "cut":
            weights.write_bytes(b"")
        case "lose":
            weights.unlink()
        case "add":
            (artifact.folder / "extra").write_bytes(b"")
        case _:
            weights.unlink()
            weights.symlink_to("/etc/hostname")
    with pytest.raises(IntegrityError):
        artifacts.verify(artifact.digest)


def test_a_folder_without_its_manifest_is_no_artifact(artifacts: Artifacts, tmp_path: Path) -> None:
    artifact = artifacts.publish(output(tmp_path / "out"))
    (artifact.folder / ARTIFACT_MANIFEST).unlink()
    with pytest.raises(NotFoundError):
        artifacts.folder(artifact.digest)


@pytest.mark.parametrize("digest", ["", "..", "a" * 64, "../" + "a" * 61])
def test_an_unknown_digest_is_not_found(artifacts: Artifacts, digest: str) -> None:
    with pytest.raises(NotFoundError):
        artifacts.folder(digest)


def test_links_are_refused_and_the_folder_left(artifacts: Artifacts, tmp_path: Path) -> None:
    folder = output(tmp_path / "out")
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(InvalidFileError):
        artifacts.publish(folder)
    assert folder.exists()


def test_an_empty_folder_is_refused(artifacts: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidFileError):
        artifacts.publish(tmp_path / "out")


@pytest.mark.row("CRA-09")
@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, InsufficientStorageError), (errno.EIO, StorageUnavailableError)],
)
def test_a_disk_that_refuses_publishes_nothing(
    artifacts: Artifacts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    expected: type[Exception],
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "sync_file", refuse)
    with pytest.raises(expected):
        artifacts.publish(output(tmp_path / "out"))
    assert list((tmp_path / "artifacts").iterdir()) == []
    assert (tmp_path / "out").exists()


@pytest.mark.row("CRA-31")
def test_a_torn_removal_leaves_no_artifact(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = artifacts.publish(output(tmp_path / "out"))
    artifacts.release(artifact.digest)

    def killed(_: Path) -> None:
        raise OSError(errno.EIO, "killed")

    aside = artifacts.set_aside(artifact.digest)
    assert aside is not None
    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(StorageUnavailableError):
        artifacts.discard(aside)
    monkeypatch.undo()
    with pytest.raises(NotFoundError):
        artifacts.folder(artifact.digest)
    again = artifacts.publish(output(tmp_path / "out"))
    artifacts.verify(again.digest)
    assert aside.exists()
    Artifacts(tmp_path / "artifacts").verify(again.digest)
    assert not aside.exists(), "opening it again did not delete what was left"


def test_a_removed_artifact_is_gone_and_may_be_removed_again(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    artifact = artifacts.publish(output(tmp_path / "out"))
    artifacts.release(artifact.digest)
    aside = artifacts.set_aside(artifact.digest)
    assert aside is not None
    artifacts.discard(aside)
    assert artifacts.set_aside(artifact.digest) is None
    assert artifacts.digests() == []


@pytest.mark.row("CRA-27")
def test_a_published_artifact_stays_until_each_of_its_publishers_lets_it_go(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    artifact = artifacts.publish(output(tmp_path / "out"))
    artifacts.publish(output(tmp_path / "again"))
    artifacts.release(artifact.digest)
    assert artifacts.set_aside(artifact.digest) is None
    artifacts.verify(artifact.digest)
    artifacts.release(artifact.digest)
    assert artifacts.set_aside(artifact.digest) is not None


def test_publishing_again_heals_damage(artifacts: Artifacts, tmp_path: Path) -> None:
    artifact = artifacts.publish(output(tmp_path / "out"))
    (artifact.folder / "model.safetensors").write_bytes(b"damaged")
    artifacts.publish(output(tmp_path / "out"))
    artifacts.verify(artifact.digest)
