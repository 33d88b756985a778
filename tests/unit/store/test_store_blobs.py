"""Blobs: whole under their digest, or not there; nothing left behind."""

import asyncio
import errno
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from purvey.errors import (
    InsufficientStorageError,
    NotFoundError,
    RequestTooLargeError,
    StorageUnavailableError,
)
from purvey.store import blobs as module
from purvey.store.blobs import ASIDE, Blobs

DATA = b"some bytes, \x00\xff and more"


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def entries(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "blobs").iterdir())


async def test_a_stream_is_stored_by_its_digest(blobs: Blobs, tmp_path: Path) -> None:
    blob = await blobs.put(stream(DATA[:5], b"", DATA[5:]), max_bytes=100)
    assert blob.sha256 == hashlib.sha256(DATA).hexdigest()
    assert blob.num_bytes == len(DATA)
    assert blobs.path(blob.sha256).read_bytes() == DATA
    assert entries(tmp_path) == [blob.sha256]


async def test_equal_bytes_are_one_blob(blobs: Blobs, tmp_path: Path) -> None:
    assert blobs.put_bytes(DATA) == await blobs.put(stream(DATA), max_bytes=100)
    assert len(entries(tmp_path)) == 1


async def test_nothing_at_all_is_a_blob_too(blobs: Blobs) -> None:
    blob = await blobs.put(stream(), max_bytes=0)
    assert (blob.num_bytes, blobs.path(blob.sha256).read_bytes()) == (0, b"")


@pytest.mark.parametrize("size", [10, 11, 10**6])
async def test_the_byte_limit_is_exact(blobs: Blobs, tmp_path: Path, size: int) -> None:
    chunks = [b"x" * min(7, size - start) for start in range(0, size, 7)]
    if size <= 10:
        assert (await blobs.put(stream(*chunks), max_bytes=10)).num_bytes == size
    else:
        with pytest.raises(RequestTooLargeError):
            await blobs.put(stream(*chunks), max_bytes=10)
        assert entries(tmp_path) == []


async def test_a_stream_that_breaks_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield DATA
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put(broken(), max_bytes=100)
    assert entries(tmp_path) == []


async def test_a_cancelled_upload_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    sent = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield DATA
        sent.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(blobs.put(endless(), max_bytes=100))
    await sent.wait()
    assert entries(tmp_path)[0].startswith(ASIDE)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert entries(tmp_path) == []


def test_what_a_kill_left_is_swept_at_the_next_start(blobs: Blobs, tmp_path: Path) -> None:
    kept = blobs.put_bytes(DATA)
    (tmp_path / "blobs" / f"{ASIDE}0123").write_bytes(b"torn")
    Blobs(tmp_path / "blobs")
    assert entries(tmp_path) == [kept.sha256]


@pytest.mark.row("CRA-09")
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, InsufficientStorageError),
        (errno.EDQUOT, InsufficientStorageError),
        (errno.EIO, StorageUnavailableError),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "rename", "sync_folder"])
def test_a_disk_that_refuses_acknowledges_nothing(
    blobs: Blobs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    number: int,
    expected: type[Exception],
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    target: object = {"fsync": os, "rename": Path, "sync_folder": module}[step]
    monkeypatch.setattr(target, step, refuse)
    with pytest.raises(expected):
        blobs.put_bytes(DATA)
    monkeypatch.undo()
    assert not any(name.startswith(ASIDE) for name in entries(tmp_path))


@pytest.mark.row("CRA-09")
def test_bytes_are_synced_before_they_get_their_name(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(fd: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "bytes")
        fsync(fd)

    def noted_rename(path: Path, target: Path) -> Path:
        order.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    blobs.put_bytes(DATA)
    assert order == ["bytes", "rename", "folder"]


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_a_name_that_is_no_digest_leads_nowhere(blobs: Blobs, name: str) -> None:
    with pytest.raises(NotFoundError):
        blobs.path(name)


def test_a_removed_blob_is_gone_and_may_be_removed_again(blobs: Blobs) -> None:
    blob = blobs.put_bytes(DATA)
    blobs.remove(blob.sha256)
    blobs.remove(blob.sha256)
    assert not blobs.path(blob.sha256).exists()


def test_storing_again_heals_damaged_bytes(blobs: Blobs) -> None:
    blob = blobs.put_bytes(DATA)
    blobs.path(blob.sha256).write_bytes(b"damaged")
    blobs.put_bytes(DATA)
    assert blobs.path(blob.sha256).read_bytes() == DATA


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_bytes(b"")
    with pytest.raises(StorageUnavailableError):
        Blobs(tmp_path / "blobs")
