"""A disk that is full sets jobs aside and costs them nothing; with room they go on."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.jobs import CHECKPOINT_ASIDE, TERMINAL, JobEvent, JobFailed
from purvey.errors import ConflictError, InsufficientStorageError
from purvey.jobs import verdict
from purvey.jobs.job_folder import LEAST_ROOM_BYTES, JobFolder
from purvey.jobs.run import RunConfig
from purvey.store import jobs
from purvey.testing.scripted_jobs import (
    Conversation,
    ScriptedJobLauncher,
    deliver_model,
    fail,
    succeed,
    until_stopped,
)
from purvey.testing.workshop import Workshop

CONFIG = RunConfig(lease_s=0.1)
FULL = fail(JobFailed(code="insufficient_storage", message="the disk is full.", is_transient=True))


class Usage(NamedTuple):
    """As `shutil.disk_usage` returns it."""

    total: int
    used: int
    free: int


class Disk:
    """The disk as the supervisor sees it; full at first."""

    free = 0

    def usage(self, _path: Path) -> Usage:
        return Usage(2**40, 2**40 - self.free, self.free)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(shutil, "disk_usage", disk.usage)
    return disk


@pytest.fixture
def launcher() -> ScriptedJobLauncher:
    return ScriptedJobLauncher()


@pytest.fixture
async def workshop(
    tmp_path: Path, launcher: ScriptedJobLauncher, disk: Disk
) -> AsyncIterator[Workshop]:
    async with Workshop(tmp_path, launcher, config=CONFIG) as workshop:
        yield workshop


async def starved(workshop: Workshop) -> str:
    job = await workshop.submit()
    paused = await workshop.until(job.id, "paused")
    assert paused.needed_bytes is not None
    return job.id


async def test_a_job_waits_for_room_and_goes_on_by_itself(
    workshop: Workshop, launcher: ScriptedJobLauncher, disk: Disk
) -> None:
    launcher.then(FULL)
    job_id = await starved(workshop)
    job = await workshop.service.get(DEFAULT_PROJECT, job_id)
    assert (job.attempt, job.wanted, job.finished_at) == (0, "run", None)
    assert job.error is not None
    assert job.error["code"] == "insufficient_storage"
    disk.free = LEAST_ROOM_BYTES - 1
    await asyncio.sleep(3 * CONFIG.lease_s)
    assert (await workshop.service.get(DEFAULT_PROJECT, job_id)).status == "paused"
    disk.free = LEAST_ROOM_BYTES
    done = await workshop.until(job_id, *TERMINAL)
    assert (done.status, done.attempt, done.fence, done.error) == ("succeeded", 1, 2, None)
    told = [(e.level, e.message) for e in await workshop.history(job_id) if e.type == "message"]
    assert told[2][0] == "warn"
    assert told[2][1].startswith("insufficient_storage: The disk is full.")
    assert told[3] == ("info", "There is room on the disk again; the job goes on.")
    await workshop.check(job_id)


async def test_however_often_the_disk_is_full_no_attempt_is_lost(
    workshop: Workshop, launcher: ScriptedJobLauncher, disk: Disk
) -> None:
    disk.free = LEAST_ROOM_BYTES
    launcher.then(*[FULL] * 5)
    job = await workshop.submit()
    done = await workshop.until(job.id, *TERMINAL)
    assert (done.status, done.attempt, done.fence) == ("succeeded", 1, 6)


async def test_a_job_that_waits_for_room_survives_a_restart(
    tmp_path: Path, launcher: ScriptedJobLauncher, disk: Disk
) -> None:
    launcher.then(FULL)
    async with Workshop(tmp_path, launcher, config=CONFIG) as workshop:
        job_id = await starved(workshop)
    async with Workshop(tmp_path, launcher, config=CONFIG) as workshop:
        await asyncio.sleep(2 * CONFIG.lease_s)
        assert (await workshop.service.get(DEFAULT_PROJECT, job_id)).status == "paused"
        disk.free = LEAST_ROOM_BYTES
        assert (await workshop.until(job_id, *TERMINAL)).status == "succeeded"


async def test_a_pause_of_its_owner_is_never_ended_by_room(
    workshop: Workshop, launcher: ScriptedJobLauncher, disk: Disk
) -> None:
    launcher.then(FULL)
    waiting = await starved(workshop)
    launcher.then(until_stopped)
    asked = await workshop.submit()
    await workshop.until_event(asked.id, "Waiting.")
    await workshop.service.pause(DEFAULT_PROJECT, asked.id)
    await workshop.until(asked.id, "paused")
    held = await workshop.service.pause(DEFAULT_PROJECT, waiting)
    assert (held.status, held.wanted, held.error) == ("paused", "pause", None)
    with pytest.raises(ConflictError, match="paused already"):
        await workshop.service.pause(DEFAULT_PROJECT, waiting)
    disk.free = 2**40
    await asyncio.sleep(3 * CONFIG.lease_s)
    for job_id in (asked.id, waiting):
        assert (await workshop.service.get(DEFAULT_PROJECT, job_id)).status == "paused"
    await workshop.service.resume(DEFAULT_PROJECT, waiting)
    assert (await workshop.until(waiting, *TERMINAL)).status == "succeeded"


async def test_it_can_be_cancelled_and_resumed_meanwhile(
    workshop: Workshop, launcher: ScriptedJobLauncher, disk: Disk
) -> None:
    launcher.then(FULL)
    job_id = await starved(workshop)
    cancelled = await workshop.service.cancel(DEFAULT_PROJECT, job_id)
    assert (cancelled.status, cancelled.error) == ("cancelled", None)
    launcher.then(FULL)
    job_id = await starved(workshop)
    resumed = await workshop.service.resume(DEFAULT_PROJECT, job_id)
    assert (resumed.status, resumed.error) == ("queued", None)
    assert (await workshop.until(job_id, *TERMINAL)).status == "succeeded"


async def test_its_owner_need_not_wait_until_it_is_looked_at_again(
    tmp_path: Path, launcher: ScriptedJobLauncher, disk: Disk
) -> None:
    launcher.then(FULL)
    async with Workshop(tmp_path, launcher, config=RunConfig(lease_s=3_600.0)) as workshop:
        job_id = await starved(workshop)
        await workshop.service.resume(DEFAULT_PROJECT, job_id)
        assert (await workshop.until(job_id, *TERMINAL)).status == "succeeded"


async def test_room_for_one_is_given_to_one(
    tmp_path: Path, launcher: ScriptedJobLauncher, disk: Disk
) -> None:
    launcher.then(FULL, FULL)
    rarely = RunConfig(lease_s=2.0)  # one look, and the disk is full again before the next
    async with Workshop(tmp_path, launcher, config=rarely) as workshop:
        first, second = [await starved(workshop) for _ in range(2)]
        launcher.then(until_stopped)
        disk.free = 2 * LEAST_ROOM_BYTES - 1
        await workshop.until_event(first, "Waiting.")
        disk.free = 0
        assert (await workshop.service.get(DEFAULT_PROJECT, second)).status == "paused"


async def test_what_was_not_finished_gives_its_room_back(
    workshop: Workshop, launcher: ScriptedJobLauncher, disk: Disk, tmp_path: Path
) -> None:
    async def write_until_full(worker: Conversation) -> int:
        checkpoints = Path(worker.spec.work_dir, "checkpoints")
        for name in ("step-00000001", f"{CHECKPOINT_ASIDE}00000002"):
            (checkpoints / name).mkdir(parents=True)
            (checkpoints / name / "model").write_bytes(bytes(LEAST_ROOM_BYTES))
        worker.write("model", b"half")
        return await FULL(worker)

    launcher.then(write_until_full)
    job_id = await starved(workshop)
    home = tmp_path / "jobs" / job_id
    assert [path.name for path in home.iterdir()] == ["work"]
    assert [path.name for path in (home / "work/checkpoints").iterdir()] == ["step-00000001"]
    job = await workshop.service.get(DEFAULT_PROJECT, job_id)
    assert job.needed_bytes == 2 * (LEAST_ROOM_BYTES + len(b"half"))


def test_a_job_asks_for_at_least_what_its_checkpoints_take(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, "job_1")
    folder.prepare(1)
    assert folder.make_room() == LEAST_ROOM_BYTES
    for step in range(2):
        (folder.work / f"step-{step}").mkdir()
        (folder.work / f"step-{step}" / "model").write_bytes(bytes(LEAST_ROOM_BYTES))
    assert folder.make_room() == 2 * LEAST_ROOM_BYTES


class FullStore:
    """Refuses one function of the store for as long as it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        self.is_full, self.num_refused = False, 0
        real = getattr(module, name)

        def work(conn: Connection, *given: Any, **named: Any) -> Any:  # as the real one
            if self.is_full:
                self.num_refused += 1
                raise InsufficientStorageError("the disk is full; nothing was stored.")
            return real(conn, *given, **named)

        monkeypatch.setattr(module, name, work)


async def test_a_result_waits_for_room_in_the_database(
    workshop: Workshop, launcher: ScriptedJobLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FullStore(monkeypatch, verdict, "record")

    async def fill_then_deliver(worker: Conversation) -> int:
        store.is_full = True
        deliver_model(worker)
        return 0

    launcher.then(fill_then_deliver)
    job = await workshop.submit()
    while store.num_refused < 3:  # noqa: ASYNC110 (the store is in a thread)
        await asyncio.sleep(0.01)
    assert (await workshop.service.get(DEFAULT_PROJECT, job.id)).status == "running"
    store.is_full = False
    assert (await workshop.until(job.id, *TERMINAL)).status == "succeeded"


async def test_what_a_worker_says_waits_for_room_then_the_job_is_set_aside(
    workshop: Workshop, launcher: ScriptedJobLauncher, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FullStore(monkeypatch, jobs, "renew")

    async def talk(worker: Conversation) -> int:
        store.is_full = True
        worker.say(JobEvent(message="Lost for want of room."))
        await asyncio.Event().wait()
        return 0

    launcher.then(talk)
    job_id = await starved(workshop)
    store.is_full, disk.free = False, LEAST_ROOM_BYTES
    done = await workshop.until(job_id, *TERMINAL)
    assert (done.status, done.attempt, done.fence) == ("succeeded", 1, 2)


async def test_the_drain_does_not_wait_for_room(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FullStore(monkeypatch, verdict, "record")

    async def fill_then_deliver(worker: Conversation) -> int:
        store.is_full = True
        return await succeed(worker)

    async with Workshop(tmp_path, ScriptedJobLauncher(fill_then_deliver)) as workshop:
        job = await workshop.submit()
        while not store.num_refused:  # noqa: ASYNC110 (the store is in a thread)
            await asyncio.sleep(0.01)
        await workshop.supervisor.drain(timeout_s=30.0)
        assert workshop.supervisor.num_running == 0
    store.is_full = True
    async with Workshop(tmp_path, ScriptedJobLauncher(), config=CONFIG) as workshop:  # still full
        assert (await workshop.service.get(DEFAULT_PROJECT, job.id)).status == "running"
        store.is_full = False
        await workshop.database.write(
            lambda conn: jobs.renew(conn, job.id, fence=1, now=0.0, lease_s=0.0)
        )
        assert (await workshop.until(job.id, *TERMINAL)).status == "succeeded"


async def test_a_full_database_is_not_asked_all_the_time(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FullStore(monkeypatch, jobs, "claim")
    store.is_full = True
    job = await workshop.submit()
    await asyncio.sleep(5 * CONFIG.lease_s)
    assert 1 <= store.num_refused <= 7
    store.is_full = False
    assert (await workshop.until(job.id, *TERMINAL)).status == "succeeded"
