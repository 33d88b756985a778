"""Gives queued jobs to workers, and puts right what dead workers and dead servers left.

One supervisor per database. It owns every run: a job that is `running` in the database and not
here was left by a server that died, or by a run whose verdict could not be stored; both are
found by their lease and settled as lost. A job that a full disk has set aside says in its row
what it waits for, and is looked at as often.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection

from purvey import failpoints
from purvey.contracts.clock import Clock
from purvey.contracts.ids import new_id
from purvey.contracts.jobs import JobKind
from purvey.contracts.records import JobRecord
from purvey.errors import CapacityError, StaleFencingTokenError
from purvey.jobs import verdict
from purvey.jobs.bell import QUEUE, Bell, events_of
from purvey.jobs.endings import Ending, Lost, Stopped
from purvey.jobs.hooks import JobHooks
from purvey.jobs.job_folder import JobFolder
from purvey.jobs.launcher import JobLauncher
from purvey.jobs.run import Run, RunConfig, RunParts
from purvey.store import events, jobs
from purvey.store.artifacts import Artifacts
from purvey.store.database import Database
from purvey.store.disk import free_bytes
from purvey.store.failures import storage_error
from purvey.telemetry import metrics

logger = logging.getLogger(__name__)

_LONGEST_BACKOFF_S = 60.0
_COMPUTING: tuple[JobKind, ...] = ("training", "dataset")
_SEARCHING: tuple[JobKind, ...] = ("sweep",)
_LANES = (_COMPUTING, _SEARCHING)
"""Kinds that share places: a sweep waits for its trials, and must not take the place of one."""
MAX_SWEEPS = 8
"""Sweeps that have a worker at once, where jobs run at all."""


class Supervisor:
    """Claims, leases, watches and settles jobs.

    Args:
        database: Where jobs live.
        artifacts: Where results are published.
        launcher: Starts workers.
        hooks: Inputs and effects of jobs.
        bell: Shared with the service, on the same event loop.
        clock: Time of leases and events.
        folder: Below it every job gets a folder of its own.
        max_running: Jobs at once, sweeps beside them not counted.
        backoff_s: Wait before the second attempt; doubled for each further one.
        config: What every run is held to.
    """

    def __init__(
        self,
        *,
        database: Database,
        artifacts: Artifacts,
        launcher: JobLauncher,
        hooks: JobHooks,
        bell: Bell,
        clock: Clock,
        folder: Path,
        max_running: int = 1,
        backoff_s: float = 1.0,
        config: RunConfig | None = None,
    ) -> None:
        self._parts = RunParts(
            database=database,
            artifacts=artifacts,
            launcher=launcher,
            hooks=hooks,
            bell=bell,
            clock=clock,
            folder=folder,
            config=config or RunConfig(),
        )
        self._max_running, self._backoff_s = max_running, backoff_s
        self._runs: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._resting: dict[str, tuple[JobKind, float]] = {}  # and loop time of its next attempt
        self._hungry: dict[str, float] = {}  # as much of what waits for room, to look at it again
        # Room given to jobs that have not written there yet, and until when it is theirs.
        self._given: dict[str, tuple[int, float]] = {}
        self._astray: dict[str, float] = {}  # job id to loop time when it was seen to have no run
        self._is_draining = False
        self._serving: asyncio.Task[None] | None = None

    @property
    def num_running(self) -> int:
        """Jobs that have a worker here."""
        return len(self._runs)

    async def start(self) -> None:
        """Recover what a dead server left, then begin to give out jobs.

        One that cannot be settled, on a full disk, is found again by its lease.

        Raises:
            CapacityError: The database could not be read.
        """
        lost = Lost(why="the server stopped while it ran")
        for job in await self._parts.database.read(jobs.running):
            with _fence("jobs.start", job_id=job.id):
                await self._recover(job, lost)
        self._serving = asyncio.create_task(self._serve(), name="supervisor")

    async def drain(self, *, timeout_s: float) -> None:
        """Stop giving out jobs and hand the running ones back: checkpoint, then `queued`.

        A worker that takes longer than `timeout_s` is killed; its job goes on from the
        checkpoint before. Safe to call twice.
        """
        self._is_draining = True
        self._parts.bell.close()
        if self._serving is not None:
            await self._serving
        runs = {task: run for run, task in self._runs.values()}
        if not runs:
            return
        for run in runs.values():
            await run.hand_back()
        _, late = await asyncio.wait(runs, timeout=timeout_s)
        for task in late:
            task.cancel()  # kills its worker
        await asyncio.gather(*late, return_exceptions=True)
        for task in late:
            job = runs[task].job
            with _fence("jobs.drain", job_id=job.id):  # else the next start finds it running
                await self._recover(job, Stopped(reason="hand_back"))

    async def _serve(self) -> None:
        with self._parts.bell.listen(QUEUE) as heard:
            while not self._is_draining:
                heard.clear()
                with _fence("jobs.supervisor"):
                    await self._sweep()
                    await self._feed()
                    await self._fill()
                await self._rest(heard)

    async def _rest(self, heard: asyncio.Event) -> None:
        """Wait for news, for the next attempt that is due, or for a lease to look at."""
        now = asyncio.get_running_loop().time()
        # An attempt that is due and has no place waits for one: a place that is left is news.
        free = self._placed_kinds()
        due = [at for kind, at in self._resting.values() if kind in free or at > now]
        due += [at for at in self._hungry.values() if at > now]
        wait_s = min([*due, now + self._parts.config.lease_s]) - now
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(wait_s, 0.01)):
                await heard.wait()

    async def _sweep(self) -> None:
        """Settle jobs that run in the database and not here, once their lease has run out.

        By the clock that leases are written with, or by having been seen astray for as long: a
        wall clock that was set back would keep such a job for all that time.
        """
        now = self._parts.clock.now()
        running, expired = await self._parts.database.read(
            lambda conn: (jobs.running(conn), jobs.expired(conn, now))
        )
        over = self._long_astray(running) | {job.id for job in expired}
        for job in running:
            if job.id in over and job.id not in self._runs:
                await self._recover(job, Lost(why="its lease ran out"))

    def _long_astray(self, running: list[JobRecord]) -> set[str]:
        now = asyncio.get_running_loop().time()
        astray = [job.id for job in running if job.id not in self._runs]
        self._astray = {job_id: self._astray.get(job_id, now) for job_id in astray}
        lease_s = self._parts.config.lease_s
        return {job_id for job_id, since in self._astray.items() if now - since >= lease_s}

    async def _feed(self) -> None:
        """Let go on what a full disk has set aside, as far as there is room for each of them."""
        starved = await self._parts.database.read(jobs.starved)
        if not starved:
            return
        now = asyncio.get_running_loop().time()
        self._hungry = {job_id: due for job_id, due in self._hungry.items() if due > now}
        self._given = {job_id: given for job_id, given in self._given.items() if given[1] > now}
        for job in starved:
            self._given.pop(job.id, None)
        free = await asyncio.to_thread(self._free_bytes)
        free -= sum(needed for needed, _ in self._given.values())
        for job in starved:
            needed = job.needed_bytes or 0
            if job.id not in self._hungry and needed <= free:
                free -= needed
                self._given[job.id] = needed, now + self._parts.config.lease_s
                await self._parts.database.write(functools.partial(self._go_on, job_id=job.id))
                self._parts.bell.ring(events_of(job.id))

    def _free_bytes(self) -> int:
        try:
            return free_bytes(self._parts.folder)
        except OSError as error:
            raise storage_error(error) from error

    def _go_on(self, conn: Connection, *, job_id: str) -> None:
        job, now = jobs.find(conn, job_id), self._parts.clock.now()
        if job.needed_bytes is None or job.wanted != "run":
            return  # its owner was faster
        events.append(
            conn,
            job_id,
            kind="message",
            level="info",
            message="There is room on the disk again; the job goes on.",
            data={},
            now=now,
        )
        jobs.move(conn, job_id, to="queued", now=now, error=None)

    async def _fill(self) -> None:
        while (kinds := self._placed_kinds()) and not self._is_draining:
            job = await self._claim(kinds)
            if job is None:
                return
            failpoints.reach("lease.taken")
            logger.info("job.claimed", extra={"job_id": job.id, "attempt": job.attempt})
            run = Run(job, self._parts)
            task = asyncio.create_task(self._finish(run), name=f"run-{job.id}")
            self._runs[job.id] = (run, task)

    def _placed_kinds(self) -> list[JobKind]:
        """List the kinds of jobs for which there is a place."""
        return [kind for lane in _LANES if self._has_place(lane) for kind in lane]

    def _has_place(self, lane: tuple[JobKind, ...]) -> bool:
        places = self._max_running if lane is _COMPUTING else MAX_SWEEPS * bool(self._max_running)
        return sum(run.job.kind in lane for run, _ in self._runs.values()) < places

    async def _claim(self, kinds: list[JobKind]) -> JobRecord | None:
        not_due = [*self._not_due(), *self._runs]
        return await self._parts.database.write(
            lambda conn: jobs.claim(
                conn,
                lease=new_id("lease_"),
                now=self._parts.clock.now(),
                lease_s=self._parts.config.lease_s,
                kinds=kinds,
                excluding=not_due,
            )
        )

    def _not_due(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        self._resting = {i: rest for i, rest in self._resting.items() if rest[1] > now}
        return list(self._resting)

    async def _finish(self, run: Run) -> None:
        """Own a run to its end; a verdict that could not be stored is left to the sweep."""
        try:
            with _fence("jobs.run", job_id=run.job.id):
                self._note(run.job, await run.finish())
        finally:
            del self._runs[run.job.id]
            self._parts.bell.ring(QUEUE)

    async def _recover(self, job: JobRecord, ending: Ending) -> None:
        """Settle a job that no run here owns; nothing happens if somebody settled it before."""
        with contextlib.suppress(StaleFencingTokenError):
            decided = await self._parts.database.write(
                lambda conn: verdict.record(
                    conn,
                    job,
                    ending,
                    hooks=self._parts.hooks,
                    max_attempts=self._parts.config.max_attempts,
                    now=self._parts.clock.now(),
                )
            )
            self._parts.bell.ring(events_of(job.id))
            self._note(job, decided)
            await asyncio.to_thread(JobFolder(self._parts.folder, job.id).leave, decided.to)

    def _note(self, job: JobRecord, decided: verdict.Verdict | None) -> None:
        if decided is None:
            return
        logger.info("job.left_worker", extra={"job_id": job.id, "status": decided.to})
        if decided.is_starved:  # a quota can be used up on a disk that has room
            looked_at = asyncio.get_running_loop().time() + self._parts.config.lease_s
            self._hungry[job.id] = looked_at
        if decided.is_retry:
            wait_s = min(self._backoff_s * 2 ** (job.attempt - 1), _LONGEST_BACKOFF_S)
            due = asyncio.get_running_loop().time() + wait_s
            self._resting[job.id] = (job.kind, due)


@contextlib.contextmanager
def _fence(where: str, *, job_id: str | None = None) -> Iterator[None]:
    """Keep one job's trouble from ending the supervisor; leases bring back what is left."""
    try:
        yield
    except CapacityError as error:
        logger.warning("supervisor.storage_refused", extra={"job_id": job_id, "code": error.code})
    except Exception:
        logger.exception("supervisor.broke", extra={"job_id": job_id})
        metrics.BROAD_CATCHES.labels(where=where).inc()
