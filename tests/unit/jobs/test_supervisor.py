"""Claims, order, recovery and fencing."""

import asyncio
import hashlib
import shutil
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import Connection

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.jobs import (
    CHECKPOINT_MANIFEST_NAME,
    TERMINAL,
    CheckpointSaved,
    Heartbeat,
    JobEvent,
    JobStatus,
)
from purvey.contracts.records import CheckpointRecord, JobRecord
from purvey.errors import InvalidCheckpointError, StorageUnavailableError
from purvey.jobs import verdict
from purvey.jobs.bell import wishes_for
from purvey.jobs.run import RunConfig
from purvey.store import checkpoints, jobs
from purvey.testing.scripted_jobs import (
    Conversation,
    ScriptedJobLauncher,
    ScriptedJobWorker,
    crash,
    deliver_model,
    succeed,
    until_stopped,
)
from purvey.testing.workshop import Workshop


async def test_jobs_run_oldest_first_and_no_more_than_allowed(tmp_path: Path) -> None:
    launcher = ScriptedJobLauncher(until_stopped)
    async with Workshop(tmp_path, launcher, max_running=2) as workshop:
        submitted = [await workshop.submit() for _ in range(3)]
        for job in submitted[:2]:
            await workshop.until_event(job.id, "Waiting.")
        assert workshop.supervisor.num_running == 2
        assert (await workshop.service.get(DEFAULT_PROJECT, submitted[2].id)).status == "queued"
        await workshop.service.cancel(DEFAULT_PROJECT, submitted[0].id)
        await workshop.until_event(submitted[2].id, "Waiting.")
        launched = [spec.job_id for spec in launcher.launched]
        # Two that are claimed at once are made ready at once, and either may be first.
        assert set(launched[:2]) == {job.id for job in submitted[:2]}
        assert launched[2:] == [submitted[2].id]


def abandoned(
    conn: Connection, job_id: str, *, wanted: Literal["run", "pause", "cancel"], claims: int
) -> None:
    """Leave a job as a server that died would: running, under a lease nobody renews."""
    for claim in range(claims):
        if claim:
            jobs.move(conn, job_id, to="queued", now=0.0)
        assert jobs.claim(conn, lease="lease_dead", now=0.0, lease_s=30.0) is not None
    jobs.want(conn, DEFAULT_PROJECT, job_id, wanted)


@pytest.mark.parametrize(
    ("wanted", "claims", "status"),
    [
        ("run", 1, "succeeded"),
        ("run", 3, "failed"),
        ("pause", 1, "paused"),
        ("cancel", 1, "cancelled"),
    ],
)
async def test_a_server_that_starts_settles_what_a_dead_one_left(
    tmp_path: Path,
    wanted: Literal["run", "pause", "cancel"],
    claims: int,
    status: JobStatus,
) -> None:
    async with Workshop(tmp_path, ScriptedJobLauncher()) as workshop:
        await workshop.supervisor.drain(timeout_s=0)
        job = await workshop.submit()
        await workshop.database.write(
            lambda conn: abandoned(conn, job.id, wanted=wanted, claims=claims)
        )
    async with Workshop(tmp_path, ScriptedJobLauncher()) as workshop:
        settled = await workshop.until(job.id, "paused", *TERMINAL)
        assert settled.status == status
        assert len(workshop.effects.ended) == (status in TERMINAL)
        await workshop.check(job.id)


async def test_a_lease_that_ran_out_without_a_run_here_is_swept(tmp_path: Path) -> None:
    config = RunConfig(lease_s=0.1)
    async with Workshop(tmp_path, ScriptedJobLauncher(), config=config) as workshop:
        stranded = JobRecord(
            id="job_stranded",
            project_id=DEFAULT_PROJECT,
            key_id="key_0",
            api="training",
            kind="training",
            status="running",
            created_at=0.0,
            recipe={},
            recipe_digest="",
            attempt=1,
            fence=1,
            lease="lease_dead",
            lease_expires_at=0.0,
        )
        await workshop.database.write(lambda conn: jobs.insert(conn, stranded))
        settled = await workshop.until("job_stranded", *TERMINAL)
        assert (settled.status, settled.fence) == ("succeeded", 2)


@pytest.mark.row("CRA-05")
async def test_a_worker_that_lost_its_lease_writes_nothing_more(tmp_path: Path) -> None:
    """The row is taken away under a live worker, as by another server: its events are refused."""

    async def zombie(worker: Conversation) -> int:
        worker.say(JobEvent(message="Mine."))
        await worker.stop_asked()
        raise AssertionError

    async with Workshop(tmp_path, ScriptedJobLauncher(zombie)) as workshop:
        job = await workshop.submit()
        await workshop.until_event(job.id, "Mine.")

        def take_over(conn: Connection) -> None:
            jobs.move(conn, job.id, to="queued", now=0.0)
            taken = jobs.claim(conn, lease="lease_other", now=0.0, lease_s=1e9)
            assert taken is not None
            jobs.move(conn, job.id, to="paused", now=0.0, fence=taken.fence)

        await workshop.database.write(take_over)
        before = await workshop.history(job.id)
        [(run, task)] = workshop.supervisor._runs.values()
        assert run._attempt is not None
        worker = run._attempt._worker
        worker._worker.say(JobEvent(message="Still mine."))  # type: ignore[attr-defined]  # the scripted one
        await task
        assert await worker.wait() == -9
        assert await workshop.history(job.id) == before
        assert (await workshop.service.get(DEFAULT_PROJECT, job.id)).status == "paused"
    assert workshop.effects.ended == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (InvalidCheckpointError("a tensor has a hole."), "invalid_checkpoint"),
        (KeyError("a bug of ours"), "internal_error"),
    ],
)
async def test_a_result_that_cannot_be_registered_fails_the_job_and_leaves_nothing(
    tmp_path: Path, fault: Exception, code: str
) -> None:
    async with Workshop(tmp_path, ScriptedJobLauncher()) as workshop:
        workshop.effects.fault = fault
        job = await workshop.submit()
        failed = await workshop.until(job.id, *TERMINAL)
        assert failed.status == "failed"
        assert failed.error is not None
        assert failed.error["code"] == code
        assert "a bug of ours" not in str(failed.error)
        assert failed.result is None
        await workshop.check(job.id)
    assert list((tmp_path / "artifacts").iterdir()) == []


async def test_the_result_of_a_job_that_was_cancelled_meanwhile_goes(tmp_path: Path) -> None:
    async def deaf(worker: Conversation) -> int:
        worker.say(JobEvent(message="Nearly done."))
        await worker.stop_asked()
        deliver_model(worker)
        return 0

    async with Workshop(tmp_path, ScriptedJobLauncher(deaf)) as workshop:
        job = await workshop.submit()
        await workshop.until_event(job.id, "Nearly done.")
        await workshop.service.cancel(DEFAULT_PROJECT, job.id)
        await workshop.until(job.id, "cancelled")
    assert workshop.effects.published == []
    assert list((tmp_path / "artifacts").iterdir()) == []
    assert list((tmp_path / "jobs").iterdir()) == []


async def test_a_job_that_a_dead_server_was_cancelling_leaves_no_folder(tmp_path: Path) -> None:
    async with Workshop(tmp_path, ScriptedJobLauncher(), max_running=0) as workshop:
        job = await workshop.submit()
        await workshop.database.write(
            lambda conn: abandoned(conn, job.id, wanted="cancel", claims=1)
        )
    (tmp_path / "jobs" / job.id / "work").mkdir(parents=True)
    async with Workshop(tmp_path, ScriptedJobLauncher()) as workshop:
        await workshop.until(job.id, "cancelled")
    assert list((tmp_path / "jobs").iterdir()) == []


@pytest.mark.row("FIL-19")
@pytest.mark.row("CRA-07")
async def test_damaged_checkpoints_are_named_and_never_end_in_a_silent_fresh_start(
    tmp_path: Path,
) -> None:
    launcher = ScriptedJobLauncher()
    folder = tmp_path / "damaged"
    folder.mkdir()
    async with Workshop(tmp_path, launcher) as workshop:
        launcher.then(until_stopped)
        busy = await workshop.submit()
        await workshop.until_event(busy.id, "Waiting.")
        job = await workshop.submit()
        record = CheckpointRecord(
            id="ftckpt_1",
            job_id=job.id,
            step=8,
            folder=str(folder),
            digest="0" * 64,
            metrics={},
            created_at=0.0,
        )
        await workshop.database.write(lambda conn: checkpoints.insert(conn, record))
        await workshop.service.cancel(DEFAULT_PROJECT, busy.id)
        failed = await workshop.until(job.id, *TERMINAL)
        assert failed.error is not None
        assert failed.error["code"] == "checkpoint_corrupt"
        said = [event.message for event in await workshop.history(job.id)]
        assert "checkpoint_corrupt: passed over the damaged checkpoint of step 8." in said
        assert [spec.job_id for spec in launcher.launched] == [busy.id]


async def save_and_stop(worker: Conversation) -> int:
    folder = Path(worker.spec.work_dir, "checkpoints", "step-4")
    folder.mkdir(parents=True)  # noqa: ASYNC240 (a script of a test)
    (folder / CHECKPOINT_MANIFEST_NAME).write_bytes(b'{"files": {}}')
    digest = hashlib.sha256(b'{"files": {}}').hexdigest()
    worker.say(CheckpointSaved(step=4, folder=str(folder), digest=digest))
    return await until_stopped(worker)


async def test_a_job_goes_on_from_its_checkpoint_after_the_data_folder_was_moved(
    tmp_path: Path,
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    async with Workshop(before, ScriptedJobLauncher(save_and_stop)) as workshop:
        job = await workshop.submit()
        await workshop.until_event(job.id, "Waiting.")
    before.rename(after)
    launcher = ScriptedJobLauncher()
    async with Workshop(after, launcher) as workshop:
        assert (await workshop.until(job.id, *TERMINAL)).status == "succeeded"
    work = after / "jobs" / job.id / "work"
    assert launcher.launched[0].resume_from == str(work / "checkpoints" / "step-4")


@pytest.mark.parametrize(("is_further", "status"), [(True, "succeeded"), (False, "failed")])
async def test_losses_are_counted_from_the_furthest_checkpoint(
    tmp_path: Path, is_further: bool, status: JobStatus
) -> None:
    """A job that comes further each time outlives any number of losses; another does not."""
    steps = iter(range(1, 9))

    async def save_and_die(worker: Conversation) -> int:
        step = next(steps) if is_further else 1
        folder = Path(worker.spec.work_dir, f"step-{step}")
        folder.mkdir(exist_ok=True)  # noqa: ASYNC240 (a script of a test)
        (folder / CHECKPOINT_MANIFEST_NAME).write_bytes(b'{"files": {}}')
        digest = hashlib.sha256(b'{"files": {}}').hexdigest()
        worker.say(CheckpointSaved(step=step, folder=str(folder), digest=digest))
        return -9

    launcher = ScriptedJobLauncher(succeed)
    for _ in range(5):
        launcher.then(save_and_die)
    config = RunConfig(max_attempts=2)
    async with Workshop(tmp_path, launcher, config=config) as workshop:
        job = await workshop.submit()
        done = await workshop.until(job.id, *TERMINAL)
        assert done.status == status
        assert done.fence == (6 if is_further else 2)


@pytest.mark.row("CRA-07")
async def test_a_job_whose_checkpoints_are_gone_starts_anew_and_lists_none(tmp_path: Path) -> None:
    """As after a restore, which brings none back."""
    async with Workshop(tmp_path, ScriptedJobLauncher(save_and_stop)) as workshop:
        job = await workshop.submit()
        await workshop.until_event(job.id, "Waiting.")
    shutil.rmtree(tmp_path / "jobs")
    launcher = ScriptedJobLauncher()
    async with Workshop(tmp_path, launcher) as workshop:
        assert (await workshop.until(job.id, *TERMINAL)).status == "succeeded"
        assert launcher.launched[0].resume_from is None
        said = " ".join(event.message for event in await workshop.history(job.id))
        assert "checkpoint_missing: none of its 1 checkpoints" in said
        page = await workshop.service.checkpoints(DEFAULT_PROJECT, job.id)
        assert page.items == []


async def test_a_checkpoint_outside_the_jobs_folder_is_not_believed(tmp_path: Path) -> None:
    async def lie(worker: Conversation) -> int:
        worker.say(CheckpointSaved(step=1, folder="/etc", digest="0" * 64))
        return 0

    launcher = ScriptedJobLauncher()
    launcher.then(lie)
    async with Workshop(tmp_path, launcher) as workshop:
        job = await workshop.submit()
        done = await workshop.until(job.id, *TERMINAL)
        assert (done.status, done.attempt) == ("succeeded", 2)
        page = await workshop.service.checkpoints(DEFAULT_PROJECT, job.id)
        assert page.items == []


async def test_a_store_that_refuses_for_a_moment_loses_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig(lease_s=5.0)
    async with Workshop(tmp_path, ScriptedJobLauncher(), config=config) as workshop:
        refusals = iter([True, True, False])
        renew = jobs.renew

        def refuse_at_first(
            conn: Connection, job_id: str, *, fence: int, now: float, lease_s: float
        ) -> None:
            if next(refusals, False):
                raise StorageUnavailableError("the disk refused.")
            renew(conn, job_id, fence=fence, now=now, lease_s=lease_s)

        monkeypatch.setattr(jobs, "renew", refuse_at_first)
        job = await workshop.submit()
        done = await workshop.until(job.id, *TERMINAL)
        assert (done.status, done.attempt) == ("succeeded", 1)
        steps = [e.data["step"] for e in await workshop.history(job.id) if e.type == "metrics"]
        assert steps == [1, 2, 3]
        assert next(refusals, None) is None


async def test_a_retry_waits_in_the_queue_where_its_owner_can_cancel_it(tmp_path: Path) -> None:
    launcher = ScriptedJobLauncher(crash)
    async with Workshop(tmp_path, launcher) as workshop:
        workshop.supervisor._backoff_s = 3_600.0
        job = await workshop.submit()
        await workshop.until_event(job.id, "Attempt 1 of 3 was lost")
        other = await workshop.submit()
        launcher.then(succeed)
        await workshop.until(other.id, "succeeded")  # it does not block the others
        assert (await workshop.service.get(DEFAULT_PROJECT, job.id)).status == "queued"
        assert (await workshop.service.cancel(DEFAULT_PROJECT, job.id)).status == "cancelled"


async def test_a_retry_that_is_due_waits_for_a_place_without_asking_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = ScriptedJobLauncher(crash)
    async with Workshop(tmp_path, launcher) as workshop:
        workshop.supervisor._backoff_s = 0.5
        job = await workshop.submit()
        await workshop.until_event(job.id, "Attempt 1 of 3 was lost")
        launcher.then(until_stopped)
        other = await workshop.submit()
        await workshop.until_event(other.id, "Waiting.")
        looks: list[float] = []
        expired = jobs.expired

        def counted(conn: Connection, now: float) -> list[JobRecord]:
            looks.append(now)
            return expired(conn, now)

        monkeypatch.setattr(jobs, "expired", counted)
        await asyncio.sleep(0.8)  # due long before that
        assert len(looks) <= 2
        launcher.then(succeed)
        await workshop.service.cancel(DEFAULT_PROJECT, other.id)
        assert (await workshop.until(job.id, *TERMINAL)).status == "succeeded"


async def test_a_store_that_refuses_at_the_end_does_not_stop_the_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(worker: Conversation) -> int:
        worker.say(JobEvent(message="Deaf."))
        await asyncio.Event().wait()
        return 0

    async with Workshop(tmp_path, ScriptedJobLauncher(deaf)) as workshop:
        job = await workshop.submit()
        await workshop.until_event(job.id, "Deaf.")
        with monkeypatch.context() as refusing:
            refusing.setattr(verdict, "record", _refuse)
            await workshop.supervisor.drain(timeout_s=0.05)
        assert (await workshop.service.get(DEFAULT_PROJECT, job.id)).status == "running"
    async with Workshop(tmp_path, ScriptedJobLauncher()) as workshop:
        assert (await workshop.until(job.id, *TERMINAL)).status == "succeeded"


def _refuse(*_given: object, **_named: object) -> None:
    raise StorageUnavailableError("the disk refused.")


async def test_heartbeats_alone_keep_a_worker_alive(tmp_path: Path) -> None:
    async def slow(worker: Conversation) -> int:
        for _ in range(15):  # half as long again as the lease
            worker.say(Heartbeat())
            await asyncio.sleep(0.1)
        return await succeed(worker)

    config = RunConfig(lease_s=1.0)
    async with Workshop(tmp_path, ScriptedJobLauncher(slow), config=config) as workshop:
        job = await workshop.submit()
        done = await workshop.until(job.id, *TERMINAL)
        assert (done.status, done.attempt) == ("succeeded", 1)


async def test_a_wish_is_heard_although_the_store_refused_to_tell_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig(heartbeat_s=0.01)
    async with Workshop(tmp_path, ScriptedJobLauncher(until_stopped), config=config) as workshop:
        refusals = iter([True, True])
        find = jobs.find

        def refuse_at_first(conn: Connection, job_id: str) -> JobRecord:
            job = find(conn, job_id)
            if job.wanted == "cancel" and job.status == "running" and next(refusals, False):
                raise StorageUnavailableError("the disk refused.")
            return job

        job = await workshop.submit()
        await workshop.until_event(job.id, "Waiting.")
        monkeypatch.setattr(jobs, "find", refuse_at_first)
        await workshop.service.cancel(DEFAULT_PROJECT, job.id)
        assert (await workshop.until(job.id, *TERMINAL)).status == "cancelled"
        assert next(refusals, None) is None


async def test_a_wish_that_is_told_as_the_attempt_ends_does_not_keep_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(worker: Conversation) -> int:
        await asyncio.sleep(0.1)  # by then the run has nothing to do but to listen for wishes
        return await succeed(worker)

    async with Workshop(tmp_path, ScriptedJobLauncher(slow)) as workshop:
        wait, seen_off = ScriptedJobWorker.wait, set[ScriptedJobWorker]()

        async def wait_and_ring(worker: ScriptedJobWorker) -> int:
            status = await wait(worker)
            if worker in seen_off:  # the last thing that the attempt waits for
                workshop.bell.ring(wishes_for(first.id))
            seen_off.add(worker)
            return status

        monkeypatch.setattr(ScriptedJobWorker, "wait", wait_and_ring)
        first, second = await workshop.submit(), await workshop.submit()
        async with asyncio.timeout(20):
            assert (await workshop.until(first.id, *TERMINAL)).status == "succeeded"
            assert (await workshop.until(second.id, *TERMINAL)).status == "succeeded"
