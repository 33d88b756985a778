"""A wall clock that is set on or back while jobs run: leases, order and limits do not follow it."""

import asyncio
from pathlib import Path

import pytest

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.jobs import TERMINAL, Heartbeat, JobEvent
from purvey.errors import StorageUnavailableError
from purvey.jobs import verdict
from purvey.jobs.run import RunConfig
from purvey.testing.clock import FakeClock
from purvey.testing.scripted_jobs import Conversation, ScriptedJobLauncher, succeed
from purvey.testing.workshop import Workshop

HOUR_S = 3_600.0
STEPS = pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S], ids=["on", "back"])


@pytest.mark.row("NET-15")
@STEPS
async def test_a_worker_that_lives_keeps_its_job_when_the_clock_is_set(
    tmp_path: Path, clock: FakeClock, step_s: float
) -> None:
    is_set = asyncio.Event()

    async def beating(worker: Conversation) -> int:
        worker.say(JobEvent(message="Working."))
        await is_set.wait()
        for _ in range(20):  # twice as long as the lease
            worker.say(Heartbeat())
            await asyncio.sleep(0.05)
        return await succeed(worker)

    config = RunConfig(lease_s=0.5)
    launcher = ScriptedJobLauncher(beating)
    async with Workshop(tmp_path, launcher, config=config, clock=clock) as workshop:
        job = await workshop.submit()
        await workshop.until_event(job.id, "Working.")
        clock.step(step_s)
        is_set.set()
        await workshop.submit()  # the supervisor looks at what has run out
        done = await workshop.until(job.id, *TERMINAL)
        assert (done.status, done.attempt) == ("succeeded", 1)
        await workshop.check(job.id)


@pytest.mark.row("NET-15")
@STEPS
async def test_a_silent_worker_is_given_up_after_its_lease_whatever_the_clock_says(
    tmp_path: Path, clock: FakeClock, step_s: float
) -> None:
    async def silent(worker: Conversation) -> int:
        worker.say(JobEvent(message="Working."))
        await asyncio.Event().wait()
        return 0

    launcher = ScriptedJobLauncher()
    launcher.then(silent)
    config = RunConfig(lease_s=0.3)
    async with Workshop(tmp_path, launcher, config=config, clock=clock) as workshop:
        job = await workshop.submit()
        await workshop.until_event(job.id, "Working.")
        clock.step(step_s)
        done = await workshop.until(job.id, *TERMINAL)
        assert (done.status, done.attempt) == ("succeeded", 2)


@pytest.mark.row("NET-15")
@STEPS
async def test_a_job_that_lost_its_run_is_found_after_a_lease_whatever_the_clock_says(
    tmp_path: Path, clock: FakeClock, step_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its verdict could not be stored, so it runs in the database and nowhere else."""
    config = RunConfig(lease_s=0.3)
    launcher = ScriptedJobLauncher()
    async with Workshop(tmp_path, launcher, config=config, clock=clock) as workshop:
        has_refused = asyncio.Event()

        def refuse(*_given: object, **_named: object) -> None:
            loop.call_soon_threadsafe(has_refused.set)
            raise StorageUnavailableError("the disk refused.")

        loop = asyncio.get_running_loop()
        with monkeypatch.context() as refusing:
            refusing.setattr(verdict, "record", refuse)
            job = await workshop.submit()
            await has_refused.wait()
            while workshop.supervisor.num_running:  # noqa: ASYNC110 (no event tells it)
                await asyncio.sleep(0.01)
        clock.step(step_s)
        done = await workshop.until(job.id, *TERMINAL)
        assert (done.status, done.attempt) == ("succeeded", 2)


@pytest.mark.row("NET-15")
async def test_events_and_listings_keep_their_order_when_the_clock_is_set_back(
    tmp_path: Path, clock: FakeClock
) -> None:
    launcher = ScriptedJobLauncher()
    async with Workshop(tmp_path, launcher, clock=clock) as workshop:
        made = []
        for step_s in (0.0, -HOUR_S, 2 * HOUR_S, -HOUR_S):
            clock.step(step_s)
            job = await workshop.submit()
            await workshop.until(job.id, "succeeded")
            await workshop.check(job.id)
            made.append(job.id)
        page = await workshop.service.page(DEFAULT_PROJECT, after=None, limit=10)
        assert [job.id for job in page.items] == made[::-1]
        starts = [
            [event.seq for event in await workshop.history(job_id) if "starts" in event.message]
            for job_id in made
        ]
        assert all(len(found) == 1 for found in starts)
