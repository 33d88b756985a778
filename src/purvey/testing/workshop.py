"""A job service and its supervisor on a store of their own: what tests of jobs work in."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection

from purvey.contracts.clock import Clock, SystemClock
from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.jobs import TRANSITIONS, JobStatus, ModelTrained
from purvey.contracts.records import JobEventRecord, JobRecord
from purvey.contracts.sweep.config import SweepConfig
from purvey.contracts.sweep.messages import SweepFinished
from purvey.jobs.bell import Bell, events_of
from purvey.jobs.hooks import JobHooks, JobInputs, JobResult
from purvey.jobs.launcher import JobLauncher
from purvey.jobs.run import RunConfig
from purvey.jobs.service import JobService
from purvey.jobs.supervisor import Supervisor
from purvey.jobs.sweeps.standing import TrialView, trials_of
from purvey.store import events, jobs, projects
from purvey.store.artifacts import Artifact, Artifacts
from purvey.store.database import Database
from purvey.store.sweeps import trials

PATIENCE_S = 60.0
"""Longest wait for a status; a test that needs it fails."""


@dataclass
class Effects:
    """Hooks that note what they were called with; set `fault` to have `outcome` raise it."""

    ended: list[JobRecord] = field(default_factory=list)
    published: list[Artifact] = field(default_factory=list)
    swept: list[JobRecord] = field(default_factory=list)
    fault: Exception | None = None

    @property
    def hooks(self) -> JobHooks:
        """The three hooks."""
        return JobHooks(prepare=self._prepare, outcome=self._outcome, ended=self._end)

    def _prepare(self, conn: Connection, job: JobRecord) -> JobInputs:
        return JobInputs()

    def _outcome(
        self, conn: Connection, job: JobRecord, result: JobResult, artifact: Artifact | None
    ) -> dict[str, Any]:  # columns of the job's row
        if self.fault is not None:
            raise self.fault
        if isinstance(result, SweepFinished):
            self.swept.append(job)
            return {}
        assert artifact is not None, "only a sweep publishes nothing"  # noqa: S101
        self.published.append(artifact)
        if trials.hold(conn, job.id, artifact.digest) and isinstance(result, ModelTrained):
            return {"result": {"validation": result.validation}}
        return {"result": {"artifact": artifact.digest}}

    def _end(self, conn: Connection, job: JobRecord) -> None:
        self.ended.append(job)


class Workshop:
    """Service and supervisor over one launcher. Use as `async with Workshop(...) as workshop`.

    Opening it again on the same folder is a restart of the server.

    Args:
        folder: Holds everything.
        launcher: Starts workers.
        config: What runs are held to.
        max_running: Jobs at once.
        clock: Time.
    """

    def __init__(
        self,
        folder: Path,
        launcher: JobLauncher,
        *,
        config: RunConfig | None = None,
        max_running: int = 1,
        clock: Clock | None = None,
    ) -> None:
        self._folder = folder
        self.clock = clock or SystemClock()
        self.bell, self.effects = Bell(), Effects()
        self.database = Database.open(f"sqlite:///{folder / 'jobs.db'}", clock=self.clock)
        self.service = JobService(
            self.database, clock=self.clock, bell=self.bell, ended=self.effects.hooks.ended
        )
        self.supervisor = Supervisor(
            database=self.database,
            artifacts=Artifacts(folder / "artifacts"),
            launcher=launcher,
            hooks=self.effects.hooks,
            bell=self.bell,
            clock=self.clock,
            folder=folder / "jobs",
            max_running=max_running,
            backoff_s=0.01,
            config=config,
        )

    async def __aenter__(self) -> Self:
        """Create the project and start the supervisor."""
        now = self.clock.now()
        await self.database.write(
            lambda conn: projects.ensure(conn, DEFAULT_PROJECT, name="default", now=now)
        )
        await self.supervisor.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drain the supervisor and close the store."""
        await self.supervisor.drain(timeout_s=PATIENCE_S)
        self.database.close()

    async def submit(self, *, suffix: str | None = None, **recipe: object) -> JobRecord:
        """Queue a training job with this recipe."""
        return await self.service.create(
            project_id=DEFAULT_PROJECT,
            key_id="key_0",
            api="training",
            kind="training",
            recipe=recipe,
            recipe_digest="0" * 64,
            suffix=suffix,
        )

    async def sweep(self, **changes: object) -> JobRecord:
        """Queue a sweep over `seed`, with these changes of its config."""
        values: dict[str, object] = {
            "recipe": {"task": "text-classification", "dataset": "ds_0", "name": "swept"},
            "space": {"seed": {"low": 0, "high": 1_000}},
            "metric": "macro_f1",
            "direction": "maximize",
            "max_trials": 3,
        }
        config = SweepConfig.model_validate(values | changes)
        return await self.service.create(
            project_id=DEFAULT_PROJECT,
            key_id="key_0",
            api="sweep",
            kind="sweep",
            recipe=config.model_dump(mode="json"),
            recipe_digest=config.digest(),
            num_trials=config.parallel,
        )

    async def trials(self, sweep_id: str) -> list[TrialView]:
        """Return where the trials of a sweep stand, by number."""
        return await self.database.read(lambda conn: trials_of(conn, jobs.find(conn, sweep_id)))

    async def until(self, job_id: str, *statuses: JobStatus) -> JobRecord:
        """Wait until the job has one of these statuses.

        Raises:
            TimeoutError: It has not, for `PATIENCE_S`.
        """
        return await self._when(job_id, lambda job: _is(job, statuses))

    async def until_event(self, job_id: str, message: str) -> JobRecord:
        """Wait until an event says `message`.

        Raises:
            TimeoutError: None does, for `PATIENCE_S`.
        """

        async def said(_job: JobRecord) -> bool:
            return any(message in event.message for event in await self.history(job_id))

        return await self._when(job_id, said)

    async def history(self, job_id: str) -> list[JobEventRecord]:
        """Return all events of a job, in order."""
        return await self.database.read(lambda conn: events.since(conn, job_id, 0))

    async def check(self, job_id: str) -> None:
        """Verify what holds for every job: events without a gap, a known status."""
        numbers = [event.seq for event in await self.history(job_id)]
        assert numbers == list(range(1, len(numbers) + 1)), "events have a gap"  # noqa: S101
        job = await self.database.read(lambda conn: jobs.find(conn, job_id))
        assert job.status in TRANSITIONS, "a status that the table does not know"  # noqa: S101
        assert (job.lease is not None) == (job.status == "running")  # noqa: S101

    async def _when(self, job_id: str, is_so: Callable[[JobRecord], Awaitable[bool]]) -> JobRecord:
        with self.bell.listen(events_of(job_id)) as heard:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    heard.clear()
                    job = await self.service.get(DEFAULT_PROJECT, job_id)
                    if await is_so(job):
                        return job
                    await heard.wait()


async def _is(job: JobRecord, statuses: tuple[JobStatus, ...]) -> bool:
    return job.status in statuses
