"""What owners do with their jobs: create, look, follow, pause, resume, cancel.

Every method takes the project first and answers for that project only. A wish about a running
job (`cancel`, `pause`) is written down and the supervisor told; the job moves when its worker
has stopped.
"""

from collections.abc import AsyncGenerator, Callable
from typing import Literal, Unpack

from sqlalchemy import Connection

from purvey import failpoints
from purvey.contracts.clock import Clock
from purvey.contracts.jobs import TERMINAL, JobApi, JobStatus
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import CheckpointRecord, JobEventRecord, JobRecord
from purvey.errors import ConflictError, RateLimitedError, ShuttingDownError
from purvey.jobs.bell import QUEUE, Bell, events_of, wishes_for
from purvey.jobs.draft import JobDraft, queued
from purvey.jobs.hooks import Ended
from purvey.jobs.sweeps.ending import follow_up, sweep_of
from purvey.store import checkpoints, events, jobs
from purvey.store.database import Database
from purvey.store.rows import Order, Page
from purvey.store.sweeps import trials

Wish = Literal["pause", "cancel"]
FOLLOWED_AT_ONCE = 1_000
"""Events of a followed job that are read, and held in memory, at one time."""


class JobService:
    """The jobs of all projects, as their owners see them.

    Args:
        database: Where jobs live.
        clock: Time of events.
        bell: Shared with the supervisor, on the same event loop.
        ended: Called in the transaction that ends a job which was not running.
    """

    def __init__(self, database: Database, *, clock: Clock, bell: Bell, ended: Ended) -> None:
        self._database, self._clock, self._bell, self._ended = database, clock, bell, ended

    async def create(
        self,
        *,
        beside: Callable[[Connection, JobRecord], None] | None = None,
        num_trials: int = 0,
        **draft: Unpack[JobDraft],
    ) -> JobRecord:
        """Put a validated job into the queue; it is on disk when this returns.

        Args:
            beside: Writes that belong to the job, made in its transaction after it (the row
                of the dataset it makes).
            num_trials: Jobs that it will have beside itself, at one time.
            draft: What the job is, see `JobDraft`.

        Raises:
            RateLimitedError: The project has too many unfinished jobs.
        """
        record = queued(draft, now=self._clock.now())

        def work(conn: Connection) -> None:
            _check_room(conn, record.project_id, num_jobs=1 + num_trials)
            jobs.insert(conn, record)
            self._tell(conn, record.id, "The job is queued.")
            if beside is not None:
                beside(conn, record)
            failpoints.reach("job.created")

        await self._database.write(work)
        failpoints.reach("job.committed")
        self._bell.ring(QUEUE)
        return record

    async def get(self, project_id: str, job_id: str) -> JobRecord:
        """Return a job.

        Raises:
            NotFoundError: No such job, or another project's.
        """
        return await self._database.read(lambda conn: jobs.get(conn, project_id, job_id))

    async def page(
        self,
        project_id: str,
        *,
        api: JobApi | None = None,
        after: str | None = None,
        limit: int = 20,
        order: Order = "desc",
    ) -> Page[JobRecord]:
        """List jobs, newest first."""
        return await self._database.read(
            lambda conn: jobs.page(conn, project_id, after=after, limit=limit, order=order, api=api)
        )

    async def cancel(self, project_id: str, job_id: str) -> JobRecord:
        """End a job that has not ended.

        A waiting job is `cancelled` at once; a running one when its worker has stopped.

        Raises:
            NotFoundError: No such job, or another project's.
            ConflictError: The job has ended.
        """
        return await self._wish(project_id, job_id, "cancel")

    async def pause(self, project_id: str, job_id: str) -> JobRecord:
        """Set a job aside; a running one writes a checkpoint first.

        One that a full disk has set aside does not go on by itself any more.

        Raises:
            NotFoundError: No such job, or another project's.
            ConflictError: The job has ended, is paused, or is being cancelled.
        """
        return await self._wish(project_id, job_id, "pause")

    async def resume(self, project_id: str, job_id: str) -> JobRecord:
        """Put a paused job back into the queue; it goes on from its newest checkpoint.

        Raises:
            NotFoundError: No such job, or another project's.
            ConflictError: The job is not paused.
        """

        def work(conn: Connection) -> JobRecord:
            job = jobs.get(conn, project_id, job_id)
            if job.status != "paused":
                raise ConflictError(f"the job is {job.status}; only a paused job can be resumed.")
            self._tell(conn, job_id, "The job is resumed.")
            now = self._clock.now()
            return jobs.move(conn, job_id, to="queued", now=now, wanted="run", error=None)

        job = await self._database.write(work)
        self._bell.ring(QUEUE)
        self._bell.ring(events_of(job_id))
        return job

    async def events(
        self,
        project_id: str,
        job_id: str,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Order = "desc",
        type: Literal["message", "metrics"] | None = None,  # noqa: A002 (the column's name)
    ) -> Page[JobEventRecord]:
        """List a job's events, newest first.

        Raises:
            NotFoundError: No such job, or another project's.
        """

        def work(conn: Connection) -> Page[JobEventRecord]:
            jobs.get(conn, project_id, job_id)
            return events.page(conn, job_id, after=after, limit=limit, order=order, type=type)

        return await self._database.read(work)

    async def follow(
        self, project_id: str, job_id: str, after_seq: int = 0
    ) -> AsyncGenerator[JobEventRecord]:
        """Yield events in order as they are written, until the job has ended.

        Raises:
            NotFoundError: No such job, or another project's (when iteration starts).
            ShuttingDownError: The server ends, and the job has not.
        """

        def work(conn: Connection) -> tuple[JobStatus, list[JobEventRecord]]:
            status = jobs.get(conn, project_id, job_id).status
            return status, events.since(conn, job_id, after_seq, limit=FOLLOWED_AT_ONCE)

        with self._bell.listen(events_of(job_id)) as heard:
            while True:
                heard.clear()
                status, fresh = await self._database.read(work)
                for event in fresh:
                    yield event
                    after_seq = event.seq
                if len(fresh) == FOLLOWED_AT_ONCE:
                    continue
                if status in TERMINAL:
                    return
                if self._bell.is_closed:
                    raise ShuttingDownError("the server is shutting down; the job goes on after.")
                await heard.wait()

    async def checkpoints(
        self,
        project_id: str,
        job_id: str,
        *,
        after: str | None = None,
        limit: int = 10,
        order: Order = "desc",
    ) -> Page[CheckpointRecord]:
        """List a job's checkpoints, newest first.

        Raises:
            NotFoundError: No such job, or another project's.
        """

        def work(conn: Connection) -> Page[CheckpointRecord]:
            jobs.get(conn, project_id, job_id)
            return checkpoints.page(conn, job_id, after=after, limit=limit, order=order)

        return await self._database.read(work)

    async def _wish(self, project_id: str, job_id: str, wish: Wish) -> JobRecord:
        job = await self._database.write(lambda conn: self._grant(conn, project_id, job_id, wish))
        concerned = [job_id, *filter(None, [sweep_of(job)])]
        if job.kind == "sweep":
            known = await self._database.read(lambda conn: trials.of_sweep(conn, job_id))
            concerned += [trial.job_id for trial in known]
        for one in concerned:
            self._bell.ring(wishes_for(one))
            self._bell.ring(events_of(one))
        return job

    def _grant(self, conn: Connection, project_id: str, job_id: str, wish: Wish) -> JobRecord:
        job = jobs.get(conn, project_id, job_id)
        _check_wish(job, wish)
        if job.status == "running":
            if job.wanted != wish:
                self._tell(conn, job_id, f"The job will {wish} at its next safe point.")
            return jobs.want(conn, project_id, job_id, wish)
        return self._end_waiting(conn, job, wish)

    def _end_waiting(self, conn: Connection, job: JobRecord, wish: Wish) -> JobRecord:
        now, job_id, project_id = self._clock.now(), job.id, job.project_id
        if wish == "pause":
            self._tell(conn, job_id, "The job is paused.")
            if job.status == "paused":
                return jobs.hold(conn, project_id, job_id)
            return jobs.move(conn, job_id, to="paused", now=now, wanted="pause")
        self._tell(conn, job_id, "The job is cancelled.")
        ended = jobs.move(conn, job_id, to="cancelled", now=now, wanted="cancel", error=None)
        self._ended(conn, ended)
        follow_up(conn, ended, now=now, ended=self._ended)
        return ended

    def _tell(self, conn: Connection, job_id: str, message: str) -> None:
        events.append(
            conn,
            job_id,
            kind="message",
            level="info",
            message=message,
            data={},
            now=self._clock.now(),
        )


def _check_room(conn: Connection, project_id: str, *, num_jobs: int) -> None:
    unfinished = jobs.count_unfinished(conn, project_id)
    if unfinished + num_jobs > LIMITS.queued_jobs:
        raise RateLimitedError(
            f"the project has {unfinished} unfinished jobs, and may have {LIMITS.queued_jobs}.",
            hint="Wait for some to end, or cancel them.",
        )


def _check_wish(job: JobRecord, wish: Wish) -> None:
    if job.status in TERMINAL:
        raise ConflictError(f"the job is {job.status} and cannot be changed any more.")
    is_held = job.status == "paused" and (job.wanted == "pause" or job.needed_bytes is None)
    if wish == "pause" and (is_held or job.wanted == "cancel"):
        state = "paused already" if is_held else "being cancelled"
        raise ConflictError(f"the job is {state}.")
    if wish == "pause" and job.status == "validating_files":
        raise ConflictError("the job is validating_files; it can be paused once it is queued.")
