"""What no row names leaves the disk, and nothing else does."""

import asyncio
import itertools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.jobs import JobStatus
from purvey.contracts.records import DatasetRecord, FileRecord, JobRecord, ModelRecord
from purvey.errors import StorageUnavailableError
from purvey.store import datasets, files, jobs, models, projects
from purvey.store.artifacts import Artifacts
from purvey.store.blobs import Blobs
from purvey.store.database import Database
from purvey.store.sweeper import Sweeper
from purvey.testing.clock import FakeClock


class Disk:
    """A sweeper and everything that it may remove."""

    def __init__(self, root: Path, database: Database) -> None:
        self.root, self.database = root, database
        self.artifacts, self.blobs = Artifacts(root / "artifacts"), Blobs(root / "blobs")
        self.work = root / "jobs"
        self.sweeper = Sweeper(database, artifacts=self.artifacts, blobs=self.blobs, work=self.work)
        for project in (DEFAULT_PROJECT, "proj_b"):
            database.write_now(partial(projects.ensure, project_id=project, name="p", now=0.0))

    def publish(self, content: bytes, *, is_held: bool = False) -> str:
        folder = self.root / "output"
        folder.mkdir()
        (folder / "weights").write_bytes(content)
        digest = self.artifacts.publish(folder).digest
        if not is_held:
            self.artifacts.release(digest)
        return digest

    def name_as_model(self, digest: str, *, project: str = DEFAULT_PROJECT) -> None:
        record = ModelRecord(
            name="m",
            project_id=project,
            family="decoder",
            task="text-generation",
            digest=digest,
            folder="",
            artifact=digest,
            created_at=0.0,
        )
        self.database.write_now(lambda conn: models.insert(conn, record))

    def name_as_dataset(self, digest: str) -> None:
        record = DatasetRecord(
            id="ds_1",
            project_id=DEFAULT_PROJECT,
            name="d",
            status="ready",
            config={},
            file_ids=(),
            job_id="job_x",
            created_at=0.0,
            artifact=digest,
        )
        self.database.write_now(lambda conn: datasets.insert(conn, record))

    def upload(self, content: bytes) -> str:
        blob = self.blobs.put_bytes(content)
        record = FileRecord(
            id=f"file-{blob.sha256[:8]}",
            project_id="proj_b",
            name="f",
            purpose="user_data",
            num_bytes=blob.num_bytes,
            sha256=blob.sha256,
            created_at=0.0,
        )
        self.database.write_now(lambda conn: files.insert(conn, record))
        return blob.sha256

    def leave_work(self, status: JobStatus) -> Path:
        record = JobRecord(
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
        self.database.write_now(lambda conn: jobs.insert(conn, record))
        folder = self.work / record.id / "work" / "checkpoint-1"
        folder.mkdir(parents=True)
        return self.work / record.id


@pytest.fixture
def disk(tmp_path: Path, database: Database) -> Disk:
    return Disk(tmp_path, database)


async def test_an_artifact_goes_with_its_last_name_of_any_project(disk: Disk) -> None:
    digest = disk.publish(b"weights")
    disk.name_as_model(digest)
    disk.name_as_model(digest, project="proj_b")
    disk.name_as_dataset(digest)
    database, collect = disk.database, disk.sweeper.collect_artifact
    await database.write(lambda conn: models.delete(conn, DEFAULT_PROJECT, "m"))
    await collect(digest)
    disk.artifacts.verify(digest)
    await database.write(lambda conn: datasets.delete(conn, DEFAULT_PROJECT, "ds_1"))
    await collect(digest)
    disk.artifacts.verify(digest)
    await database.write(lambda conn: models.delete(conn, "proj_b", "m"))
    await collect(digest)
    assert list((disk.root / "artifacts").iterdir()) == []


async def test_an_artifact_on_its_way_into_a_row_stays(disk: Disk) -> None:
    """Equal content is published again while the model that named it is deleted."""
    digest = disk.publish(b"weights")
    assert disk.publish(b"weights", is_held=True) == digest
    await disk.sweeper.collect_artifact(digest)
    disk.name_as_model(digest)
    disk.artifacts.release(digest)
    await disk.sweeper.collect_artifact(digest)
    disk.artifacts.verify(digest)


@pytest.mark.row("CRA-31")
async def test_a_start_removes_what_nobody_names_and_keeps_the_rest(disk: Disk) -> None:
    model, dataset = disk.publish(b"model"), disk.publish(b"dataset")
    disk.name_as_model(model)
    disk.name_as_dataset(dataset)
    disk.publish(b"of a job that was cancelled meanwhile")
    kept = disk.upload(b"a file")
    disk.blobs.put_bytes(b"of an upload that ended before its row")
    needed = {disk.leave_work(status) for status in ("queued", "running", "paused", "failed")}
    for status in ("cancelled", "succeeded"):
        disk.leave_work(status)
    (disk.work / "job_without_a_row").mkdir()
    await disk.sweeper.sweep()
    assert set(disk.artifacts.digests()) == {model, dataset}
    assert disk.blobs.names() == [kept]
    assert set(disk.work.iterdir()) == needed


async def test_beside_a_database_that_names_nothing_everything_stays(disk: Disk) -> None:
    """The operator may have named the wrong one."""
    digest, blob = disk.publish(b"model"), disk.blobs.put_bytes(b"a file")
    await disk.sweeper.sweep()
    assert disk.artifacts.digests() == [digest]
    assert disk.blobs.names() == [blob.sha256]


async def test_a_disk_that_refuses_fails_nobody(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> None:
        raise StorageUnavailableError("the storage refused.")

    monkeypatch.setattr(disk.artifacts, "set_aside", refuse)
    digest = disk.publish(b"weights")
    await disk.sweeper.collect_artifact(digest)
    assert disk.artifacts.digests() == [digest]


KILLED = 9


def killed_at(hit: int, url: str, root: Path) -> int:
    """Sweep in a process that dies before its removal number `hit`; return its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = itertools.count(1)

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:  # as the function of `os`
        def operation(*given: Any, **named: Any) -> Any:
            if next(count) == hit:
                os._exit(KILLED)
            return real(*given, **named)

        return operation

    for name in ("rename", "unlink", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))
    try:
        start_and_sweep(url, root)
        os._exit(0)
    finally:
        os._exit(1)  # never back into the tests


def start_and_sweep(url: str, root: Path) -> Disk:
    database = Database.open(url, clock=FakeClock())
    disk = Disk(root, database)
    asyncio.run(disk.sweeper.sweep())
    database.close()
    return disk


@pytest.mark.row("CRA-31")
def test_a_sweep_that_is_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'purvey.db'}"
    database = Database.open(url, clock=FakeClock())
    disk = Disk(tmp_path, database)
    model, blob = disk.publish(b"model"), disk.upload(b"a file")
    disk.name_as_model(model)
    needed = {disk.leave_work(status) for status in ("queued", "running", "paused", "failed")}
    database.close()
    names, hit, status = ["succeeded", "cancelled", "of no row"], 0, KILLED
    while status == KILLED:
        hit += 1
        for content in (b"left", b"left too"):
            disk.publish(content)
            disk.blobs.put_bytes(content)
        for name in names:
            (disk.work / f"job_{name}" / "work").mkdir(parents=True, exist_ok=True)
        status = killed_at(hit, url, tmp_path)
        start_and_sweep(url, tmp_path)
        assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [model]
        assert [path.name for path in (tmp_path / "blobs").iterdir()] == [blob]
        assert set(disk.work.iterdir()) == needed
        disk.artifacts.verify(model)
    assert (status, hit > 10) == (0, True)
