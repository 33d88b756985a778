"""What every job launcher must do under the supervisor: scripted and real processes alike."""

from pathlib import Path

import pytest

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.jobs import TERMINAL, JobStatus
from purvey.jobs.launcher import JobLauncher
from purvey.jobs.run import RunConfig
from purvey.testing.workshop import Workshop

PATIENT = RunConfig(lease_s=30.0, heartbeat_s=0.1, stop_grace_s=30.0)


async def messages(workshop: Workshop, job_id: str) -> str:
    return "\n".join(event.message for event in await workshop.history(job_id))


async def test_a_job_succeeds_and_its_output_is_published(
    tmp_path: Path, launcher: JobLauncher
) -> None:
    async with Workshop(tmp_path, launcher, config=PATIENT) as workshop:
        job = await workshop.submit(acts=["succeed"])
        done = await workshop.until(job.id, *TERMINAL)
        assert (done.status, done.attempt, done.error) == ("succeeded", 1, None)
        assert done.compute_s > 0
        [artifact] = workshop.effects.published
        assert done.result == {"artifact": artifact.digest}
        assert len(list(artifact.folder.iterdir())) == 2  # what the worker wrote, and the manifest
        steps = [e.data["step"] for e in await workshop.history(job.id) if e.type == "metrics"]
        assert steps == [1, 2, 3]
        assert [ended.id for ended in workshop.effects.ended] == [job.id]
        await workshop.check(job.id)
    assert not (tmp_path / "jobs" / job.id).exists()


@pytest.mark.row("CRA-03")
@pytest.mark.parametrize("accident", ["crash", "quit_early"])
async def test_a_job_whose_worker_dies_is_tried_again(
    tmp_path: Path, launcher: JobLauncher, accident: str
) -> None:
    async with Workshop(tmp_path, launcher, config=PATIENT) as workshop:
        job = await workshop.submit(acts=[accident, "succeed"])
        done = await workshop.until(job.id, *TERMINAL)
        assert (done.status, done.attempt, done.fence) == ("succeeded", 2, 2)
        told = await messages(workshop, job.id)
        assert "Attempt 1 of 3 was lost" in told
        assert ("from the checkpoint of step 1" in told) == (accident == "crash")
        await workshop.check(job.id)


async def test_a_job_whose_workers_keep_dying_fails(tmp_path: Path, launcher: JobLauncher) -> None:
    async with Workshop(tmp_path, launcher, config=PATIENT) as workshop:
        job = await workshop.submit(acts=["quit_early"] * 3)
        done = await workshop.until(job.id, *TERMINAL)
        assert (done.status, done.attempt) == ("failed", 3)
        assert done.error is not None
        assert done.error["code"] == "worker_crashed"
        assert [ended.status for ended in workshop.effects.ended] == ["failed"]
        await workshop.check(job.id)


@pytest.mark.row("CRA-25")
@pytest.mark.row("CRA-05")
async def test_a_silent_worker_is_killed_and_the_job_tried_again(
    tmp_path: Path, launcher: JobLauncher, strict: RunConfig
) -> None:
    async with Workshop(tmp_path, launcher, config=strict) as workshop:
        job = await workshop.submit(acts=["hang", "succeed", "succeed"])
        done = await workshop.until(job.id, *TERMINAL)
        assert done.status == "succeeded"
        assert "the worker was silent" in await messages(workshop, job.id)
        await workshop.check(job.id)


@pytest.mark.parametrize(
    ("act", "code", "param"),
    [
        ("fail", "invalid_value", "recipe.optimizer.learning_rate"),
        ("break_down", "internal_error", None),
    ],
)
async def test_a_run_that_cannot_succeed_is_not_tried_again(
    tmp_path: Path, launcher: JobLauncher, act: str, code: str, param: str | None
) -> None:
    async with Workshop(tmp_path, launcher, config=PATIENT) as workshop:
        job = await workshop.submit(acts=[act])
        done = await workshop.until(job.id, *TERMINAL)
        assert (done.status, done.attempt) == ("failed", 1)
        assert done.error is not None
        assert (done.error["code"], done.error["param"]) == (code, param)
        assert "a training row" not in await messages(workshop, job.id)
        await workshop.check(job.id)


async def test_a_running_job_is_cancelled(tmp_path: Path, launcher: JobLauncher) -> None:
    async with Workshop(tmp_path, launcher, config=PATIENT) as workshop:
        job = await workshop.submit(acts=["work_until_stopped"])
        await workshop.until_event(job.id, "Working.")
        await workshop.service.cancel(DEFAULT_PROJECT, job.id)
        done = await workshop.until(job.id, *TERMINAL)
        assert done.status == "cancelled"
        page = await workshop.service.checkpoints(DEFAULT_PROJECT, job.id)
        assert page.items == []
        await workshop.check(job.id)


async def test_a_running_job_is_paused_with_a_checkpoint_and_resumed_from_it(
    tmp_path: Path, launcher: JobLauncher
) -> None:
    async with Workshop(tmp_path, launcher, config=PATIENT) as workshop:
        job = await workshop.submit(acts=["work_until_stopped", "succeed"])
        await workshop.until_event(job.id, "Working.")
        await workshop.service.pause(DEFAULT_PROJECT, job.id)
        paused = await workshop.until(job.id, "paused")
        assert paused.attempt == 0  # a pause costs no attempt
        await workshop.service.resume(DEFAULT_PROJECT, job.id)
        done = await workshop.until(job.id, *TERMINAL)
        assert done.status == "succeeded"
        assert "starts from the checkpoint of step 5" in await messages(workshop, job.id)
        await workshop.check(job.id)


@pytest.mark.parametrize(("wish", "status"), [("cancel", "cancelled"), ("pause", "paused")])
async def test_a_worker_that_does_not_stop_is_killed(
    tmp_path: Path, launcher: JobLauncher, strict: RunConfig, wish: str, status: JobStatus
) -> None:
    async with Workshop(tmp_path, launcher, config=strict) as workshop:
        job = await workshop.submit(acts=["ignore_stop"] * 3)
        await workshop.until_event(job.id, "Working.")
        await getattr(workshop.service, wish)(DEFAULT_PROJECT, job.id)
        done = await workshop.until(job.id, "succeeded", "failed", "cancelled", "paused")
        assert done.status == status
        await workshop.check(job.id)


async def test_a_draining_server_hands_its_jobs_back_and_the_next_goes_on(
    tmp_path: Path, launcher: JobLauncher
) -> None:
    async with Workshop(tmp_path, launcher, config=PATIENT) as workshop:
        job = await workshop.submit(acts=["work_until_stopped", "succeed"])
        await workshop.until_event(job.id, "Working.")
        await workshop.supervisor.drain(timeout_s=30)
        back = await workshop.until(job.id, "queued", *TERMINAL)
        assert (back.status, back.attempt, workshop.supervisor.num_running) == ("queued", 0, 0)
        await workshop.check(job.id)
    async with Workshop(tmp_path, launcher, config=PATIENT) as workshop:
        done = await workshop.until(job.id, *TERMINAL)
        assert done.status == "succeeded"
        assert "starts from the checkpoint of step 5" in await messages(workshop, job.id)
        await workshop.check(job.id)


async def test_a_drain_does_not_wait_longer_than_it_may(
    tmp_path: Path, launcher: JobLauncher
) -> None:
    async with Workshop(tmp_path, launcher, config=PATIENT) as workshop:
        job = await workshop.submit(acts=["ignore_stop"])
        await workshop.until_event(job.id, "Working.")
        await workshop.supervisor.drain(timeout_s=0.2)
        back = await workshop.until(job.id, "queued", *TERMINAL)
        assert (back.status, back.attempt) == ("queued", 0)
        await workshop.check(job.id)
