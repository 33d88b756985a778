"""One claimed job, from its inputs to its verdict."""

import asyncio
import contextlib
import functools
import logging
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from purvey import failpoints
from purvey.contracts.clock import Clock
from purvey.contracts.deployment import Device
from purvey.contracts.jobs import TERMINAL, JobFailed, JobSpec
from purvey.contracts.records import JobRecord
from purvey.contracts.sweep.messages import SweepFinished
from purvey.errors import (
    CapacityError,
    InsufficientStorageError,
    IntegrityError,
    InternalError,
    PurveyError,
    StaleFencingTokenError,
    WorkerCrashedError,
)
from purvey.jobs import resume, verdict
from purvey.jobs.attempt import Attempt, AttemptLimits
from purvey.jobs.bell import Bell, events_of, wishes_for
from purvey.jobs.endings import Completed, Ending, Failed, Lost, Starved, Stopped, Superseded
from purvey.jobs.hooks import JobHooks
from purvey.jobs.job_folder import JobFolder
from purvey.jobs.launcher import JobLauncher, JobWorker
from purvey.jobs.sweeps.book import TrialBook
from purvey.jobs.sweeps.conductor import Conductor, log_break
from purvey.jobs.sweeps.ending import sweep_of
from purvey.store import checkpoints, events, jobs
from purvey.store.artifacts import Artifact, Artifacts
from purvey.store.database import Database
from purvey.store.failures import storage_error
from purvey.store.sweeper import collect_artifact
from purvey.store.sweeps import trials
from purvey.telemetry import alarms, metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run is held to.

    Args:
        lease_s: Longest silence of a worker before it is taken for dead.
        heartbeat_s: How often a worker reports; well below `lease_s`.
        stop_grace_s: How long a worker may take to stop once asked.
        max_attempts: Attempts that may be lost in a row without a checkpoint that is further on.
        num_threads: Compute threads of one worker.
        device: Where networks may learn.
        stall_s: Time that any training step may take; see `worker.watchdog`.
        failpoints: Plan for the worker that is a job's first; empty but in tests.
    """

    lease_s: float = 30.0
    heartbeat_s: float = 5.0
    stop_grace_s: float = 15.0
    max_attempts: int = 3
    num_threads: int = 1
    device: Device = "cpu"
    stall_s: float = 300.0
    failpoints: str = ""


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """What a run works with, shared by all runs of a supervisor."""

    database: Database
    artifacts: Artifacts
    launcher: JobLauncher
    hooks: JobHooks
    bell: Bell
    clock: Clock
    folder: Path
    config: RunConfig


class Run:
    """One attempt of a claimed job. `finish` is awaited once, by its owner."""

    def __init__(self, job: JobRecord, parts: RunParts) -> None:
        self.job = job
        self._parts = parts
        self._folder = JobFolder(parts.folder, job.id)
        self._attempt: Attempt | None = None
        self._handing_back = asyncio.Event()
        self._compute_s = 0.0
        self._conductor: Conductor | None = None

    async def finish(self) -> verdict.Verdict | None:
        """Run the attempt and write its verdict.

        Returns:
            The verdict, or None when another attempt has taken over.

        A verdict that a full disk has no room for waits, and the worker's place with it.

        Raises:
            CapacityError: The verdict could not be stored; the job's lease will run out.
        """
        try:
            ending = await self._take_place()
            if isinstance(ending, Completed) and not isinstance(ending.result, SweepFinished):
                return await self._deliver(ending)
            return await self._settle(ending, artifact=None)
        except StaleFencingTokenError:
            logger.warning("job.superseded", extra={"job_id": self.job.id})
            return None
        except PurveyError as error:
            failure = _failure_of(error)
        except OSError as error:
            logger.warning("job.io_failed", extra={"job_id": self.job.id, "errno": error.errno})
            failure = _failure_of(storage_error(error))
        except Exception:
            logger.exception("job.broke", extra={"job_id": self.job.id})
            metrics.BROAD_CATCHES.labels(where="jobs.run").inc()
            failure = JobFailed(code=InternalError.code, message="the server has a bug.")
        return await self._settle(Failed(failure=failure), artifact=None)

    async def hand_back(self) -> None:
        """Have the worker write a checkpoint and stop; the job returns to the queue."""
        self._handing_back.set()
        if self._attempt is not None:
            await self._attempt.stop("hand_back")

    async def _take_place(self) -> Ending:
        spec = await self._prepare()
        if isinstance(spec, Failed):
            return spec
        if self._handing_back.is_set():
            return Stopped(reason="hand_back")
        job_id, lease_s = self.job.id, self._parts.config.lease_s
        told_step = await self._parts.database.read(lambda conn: events.told_step(conn, job_id))
        try:
            async with asyncio.timeout(lease_s):
                worker = await self._parts.launcher.launch(spec)
        except WorkerCrashedError as error:
            return Lost(why=error.message)
        except TimeoutError:
            return Lost(why=f"the worker did not take its job within {lease_s:g} s")
        limits = AttemptLimits(lease_s=lease_s, stop_grace_s=self._parts.config.stop_grace_s)
        self._attempt = Attempt(
            spec,
            worker,
            database=self._parts.database,
            bell=self._parts.bell,
            clock=self._parts.clock,
            limits=limits,
            told_step=told_step,
            trials=self._book(),
        )
        return await self._attend(self._attempt, worker)

    def _book(self) -> TrialBook | None:
        if self.job.kind != "sweep":
            return None
        return TrialBook(self.job, clock=self._parts.clock, ended=self._parts.hooks.ended)

    async def _attend(self, attempt: Attempt, worker: JobWorker) -> Ending:
        """Run the attempt while passing on what the owner wants of it, and how its trials go."""
        began = self._parts.clock.monotonic()
        beside = [asyncio.create_task(self._obey(attempt))]
        if self.job.kind == "sweep":
            beside.append(self._conduct(worker))
        try:
            return await attempt.run()
        finally:
            if self.job.kind != "sweep":  # which waits; its trials compute
                self._compute_s = self._parts.clock.monotonic() - began
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    def _conduct(self, worker: JobWorker) -> "asyncio.Task[None]":
        parts = self._parts
        self._conductor = Conductor(
            self.job,
            worker,
            database=parts.database,
            artifacts=parts.artifacts,
            bell=parts.bell,
            clock=parts.clock,
            look_s=parts.config.heartbeat_s,
        )
        task = asyncio.create_task(self._conductor.run(), name=f"sweep-{self.job.id}")
        task.add_done_callback(functools.partial(log_break, sweep_id=self.job.id, worker=worker))
        return task

    async def _obey(self, attempt: Attempt) -> None:
        """Tell the worker what its owner wants, also when a read or a ring was missed."""
        if self._handing_back.is_set():
            await attempt.stop("hand_back")
        with self._parts.bell.listen(wishes_for(self.job.id)) as heard:
            while True:
                heard.clear()
                with contextlib.suppress(CapacityError):
                    job = await self._parts.database.read(lambda conn: jobs.find(conn, self.job.id))
                    if job.wanted != "run":
                        await attempt.stop(job.wanted)
                # Not `wait_for`: a ring that comes with the cancellation makes it lose that one.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._parts.config.heartbeat_s):
                        await heard.wait()

    async def _prepare(self) -> JobSpec | Failed:
        """Resolve inputs, choose the checkpoint, make the folders."""
        parts, job = self._parts, self.job
        inputs = await parts.database.read(lambda conn: parts.hooks.prepare(conn, job))
        saved = await parts.database.read(lambda conn: checkpoints.newest(conn, job.id))
        point = await asyncio.to_thread(resume.choose, saved, self._folder)
        for checkpoint in point.corrupt:
            alarms.integrity_failed("checkpoint", checkpoint_id=checkpoint.id, job_id=job.id)
        await self._tell_start(point)
        if point.is_lost:
            return Failed(failure=_all_corrupt(len(point.corrupt)))
        await asyncio.to_thread(self._folder.prepare, job.fence)
        return JobSpec(
            job_id=job.id,
            kind=job.kind,
            attempt=job.attempt,
            fence=job.fence,
            recipe=job.recipe,
            files=inputs.files,
            dataset=inputs.dataset,
            base=inputs.base,
            module_roots=inputs.module_roots,
            work_dir=str(self._folder.work),
            output_dir=str(self._folder.output(job.fence)),
            resume_from=str(self._folder.checkpoint(point.checkpoint.folder))
            if point.checkpoint
            else None,
            num_threads=parts.config.num_threads,
            device=parts.config.device,
            heartbeat_interval_s=parts.config.heartbeat_s,
            stall_s=parts.config.stall_s,
            failpoints=parts.config.failpoints if job.fence == 1 else "",
        )

    async def _tell_start(self, point: resume.ResumePoint) -> None:
        told = point.story(attempt=self.job.attempt)

        def write(conn: Connection) -> None:
            if point.num_gone:
                checkpoints.forget(conn, self.job.id, fence=self.job.fence)
            for level, message in told:
                events.append(
                    conn,
                    self.job.id,
                    kind="message",
                    level=level,
                    message=message,
                    data={},
                    now=self._parts.clock.now(),
                    fence=self.job.fence,
                )

        await self._parts.database.write(write)
        self._parts.bell.ring(events_of(self.job.id))

    async def _deliver(self, ending: Completed) -> verdict.Verdict | None:
        """Publish, and settle; what was published for a job that ended otherwise goes again."""
        artifacts = self._parts.artifacts
        artifact = await asyncio.to_thread(artifacts.publish, self._folder.output(self.job.fence))
        failpoints.reach("artifact.published")
        try:
            return await self._settle(ending, artifact=artifact)
        finally:
            artifacts.release(artifact.digest)
            await collect_artifact(self._parts.database, artifacts, artifact.digest)

    async def _settle(self, ending: Ending, *, artifact: Artifact | None) -> verdict.Verdict | None:
        parts = self._parts
        if isinstance(ending, Superseded):
            raise StaleFencingTokenError("another attempt holds the lease")
        if isinstance(ending, Failed) and ending.failure.code == IntegrityError.code:
            alarms.integrity_failed("job_input", job_id=self.job.id)
        if isinstance(ending, Failed) and ending.failure.code == InsufficientStorageError.code:
            # What it was writing goes first: the verdict may need that room.
            room = await asyncio.to_thread(self._folder.make_room)
            ending = Starved(needed_bytes=room)
        is_sweep = self.job.kind == "sweep"
        held = await parts.database.read(self._held) if is_sweep else []
        decided = await self._record(ending, artifact)
        failpoints.reach("job.terminal")
        parts.bell.ring(events_of(self.job.id))
        if self._conductor is not None:
            await self._conductor.clear_up()
        if is_sweep and decided.to in TERMINAL:
            await self._leave_trials(held)
        elif (sweep_id := sweep_of(self.job)) is not None:
            parts.bell.ring(events_of(sweep_id))
        await asyncio.to_thread(self._folder.leave, decided.to)
        return decided

    def _held(self, conn: Connection) -> list[str]:
        return trials.held(conn, self.job.id)

    async def _leave_trials(self, held: list[str]) -> None:
        """Have the trials of a sweep that still run stop now; the others' models go."""
        parts = self._parts
        for trial in await parts.database.read(lambda conn: trials.of_sweep(conn, self.job.id)):
            parts.bell.ring(wishes_for(trial.job_id))
            parts.bell.ring(events_of(trial.job_id))
        for digest in held:
            await collect_artifact(parts.database, parts.artifacts, digest)

    async def _record(self, ending: Ending, artifact: Artifact | None) -> verdict.Verdict:
        """Write the verdict; on a full disk wait for room, at most until the server stops."""
        parts = self._parts

        def work(conn: Connection) -> verdict.Verdict:
            return verdict.record(
                conn,
                self.job,
                ending,
                hooks=parts.hooks,
                max_attempts=parts.config.max_attempts,
                now=parts.clock.now(),
                compute_s=self._compute_s,
                artifact=artifact,
            )

        while True:
            try:
                return await parts.database.write(work)
            except InsufficientStorageError:
                if self._handing_back.is_set():
                    raise
                logger.warning("job.verdict_waits", extra={"job_id": self.job.id})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(parts.config.lease_s / 10):
                    await self._handing_back.wait()


def _failure_of(error: PurveyError) -> JobFailed:
    return JobFailed(
        code=error.code,
        message=error.text,
        param=error.param,
        is_transient=isinstance(error, CapacityError),
    )


def _all_corrupt(count: int) -> JobFailed:
    message = f"none of its {count} checkpoints is whole, and starting over would lose the run."
    return JobFailed(code="checkpoint_corrupt", message=message)
