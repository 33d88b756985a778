"""What a run would take: asked of a worker that is started for it, one at a time."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from purvey.contracts.clock import Clock
from purvey.contracts.estimating.needs import Estimated
from purvey.contracts.jobs import JobFailed, JobSpec
from purvey.errors import (
    DeadlineExceededError,
    RateLimitedError,
    WorkerCrashedError,
    from_code,
)
from purvey.jobs.draft import JobDraft, queued
from purvey.jobs.hooks import Prepare
from purvey.jobs.launcher import JobLauncher, JobWorker
from purvey.store.database import Database

MOST_WAITING = 8
"""Estimates that wait for their turn, or have it."""


class Estimator:
    """Starts a worker for each question, and ends it with its answer.

    Args:
        database: Where datasets and models are looked up.
        launcher: Starts the workers.
        prepare: Resolves what a run reads.
        folder: Where they work; holds nothing between two questions.
        num_threads: Threads of a run.
        timeout_s: How long a worker may take, its start included.
        clock: Time of the record that is never stored.
    """

    def __init__(
        self,
        database: Database,
        *,
        launcher: JobLauncher,
        prepare: Prepare,
        folder: Path,
        num_threads: int,
        clock: Clock,
        timeout_s: float = 60.0,
    ) -> None:
        self._database, self._launcher, self._prepare = database, launcher, prepare
        self._folder, self._num_threads, self._timeout_s = folder, num_threads, timeout_s
        self._clock = clock
        self._turn = asyncio.Lock()
        self._num_waiting = 0

    async def estimate(self, draft: JobDraft) -> Estimated:
        """Return what the run of a draft would take; nothing is stored.

        Raises:
            RateLimitedError: Too many others wait.
            DeadlineExceededError: The worker took too long.
            WorkerCrashedError: It could not start, or died.
            PurveyError: What the run itself would be refused for.
        """
        if self._num_waiting >= MOST_WAITING:
            raise RateLimitedError(f"{self._num_waiting} estimates are being made.")
        self._num_waiting += 1
        try:
            async with self._turn:
                return await self._made(draft)
        finally:
            self._num_waiting -= 1

    async def _made(self, draft: JobDraft) -> Estimated:
        job = queued(draft, now=self._clock.now())
        inputs = await self._database.read(lambda conn: self._prepare(conn, job))
        home = self._folder / job.id
        await asyncio.to_thread(_make_afresh, home)
        spec = JobSpec(
            job_id=job.id,
            kind="estimate",
            attempt=1,
            fence=1,
            recipe=job.recipe,
            files=inputs.files,
            dataset=inputs.dataset,
            base=inputs.base,
            module_roots=inputs.module_roots,
            work_dir=str(home),
            output_dir=str(home),
            num_threads=self._num_threads,
        )
        try:
            async with asyncio.timeout(self._timeout_s), self._worker(spec) as worker:
                return await _answer(worker)
        except TimeoutError:
            raise DeadlineExceededError(
                f"the estimate took longer than {self._timeout_s:g} s.", param="recipe"
            ) from None
        finally:
            await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)

    @asynccontextmanager
    async def _worker(self, spec: JobSpec) -> AsyncIterator[JobWorker]:
        worker = await self._launcher.launch(spec)
        try:
            yield worker
        finally:
            worker.kill()
            await worker.wait()


async def _answer(worker: JobWorker) -> Estimated:
    async for message in worker.messages():
        if isinstance(message, JobFailed):
            raise from_code(message.code, message.message, param=message.param)
        if isinstance(message, Estimated):
            return message
    raise WorkerCrashedError("the process that made the estimate died.")


def _make_afresh(home: Path) -> None:
    """Make the folder, without what a server that was killed has left beside it."""
    shutil.rmtree(home.parent, ignore_errors=True)
    home.mkdir(parents=True)
