"""One attempt of one job: listen to its worker, write what it says, notice when it is gone.

Every message renews the lease, in the transaction that writes it, under the attempt's fencing
token. A worker that says nothing for a lease is killed; so is one that was asked to stop and
does not.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from purvey import failpoints
from purvey.contracts.clock import Clock
from purvey.contracts.ids import new_id
from purvey.contracts.jobs import (
    CheckpointSaved,
    DatasetBuilt,
    FromWorker,
    JobEvent,
    JobFailed,
    JobSpec,
    JobStopped,
    ModelTrained,
    StopReason,
)
from purvey.contracts.records import CheckpointRecord
from purvey.contracts.sweep.messages import SweepFinished, TrialAsked, TrialStopped
from purvey.errors import (
    CapacityError,
    InsufficientStorageError,
    InternalError,
    StaleFencingTokenError,
)
from purvey.jobs.bell import Bell, events_of
from purvey.jobs.endings import Completed, Ending, Failed, Lost, Stopped, Superseded
from purvey.jobs.launcher import JobWorker
from purvey.jobs.sweeps.book import TrialBook
from purvey.store import checkpoints, events, jobs
from purvey.store.database import Database

logger = logging.getLogger(__name__)

LastWord = DatasetBuilt | ModelTrained | SweepFinished | JobStopped | JobFailed
Note = JobEvent | CheckpointSaved | TrialAsked | TrialStopped
_INBOX_MESSAGES = 256
_RANK: dict[StopReason, int] = {"hand_back": 0, "pause": 1, "cancel": 2}


@dataclass(frozen=True, kw_only=True)
class AttemptLimits:
    """How long an attempt's worker may be silent, and may take to stop or to exit."""

    lease_s: float
    stop_grace_s: float


class _StopAsked:
    """Wakes the listener: the deadline has changed."""


class _Closed:
    """The worker's messages have ended."""

    def __init__(self, fault: str | None = None) -> None:
        self.fault = fault


class Attempt:
    """The conversation with one worker, from its start to its last word.

    One task awaits `run`; any task of the same loop may call `stop`. Numbers of steps up to
    `told_step` are on record and are not told again. `trials` is where a sweep's are written.
    """

    def __init__(
        self,
        spec: JobSpec,
        worker: JobWorker,
        *,
        database: Database,
        bell: Bell,
        clock: Clock,
        limits: AttemptLimits,
        told_step: int = 0,
        trials: TrialBook | None = None,
    ) -> None:
        self._trials = trials
        self._spec, self._worker, self._limits = spec, worker, limits
        self._told_step = told_step
        self._database, self._bell, self._clock = database, bell, clock
        self._inbox: asyncio.Queue[FromWorker | _StopAsked | _Closed] = asyncio.Queue(
            _INBOX_MESSAGES
        )
        self._asked: StopReason | None = None
        self._stop_by: float | None = None

    async def run(self) -> Ending:
        """Listen until the attempt is over; the worker has ended when this returns."""
        reading = asyncio.create_task(self._read())
        try:
            ending = await self._listen()
            await self._see_off()
        except StaleFencingTokenError:
            return Superseded()
        except InsufficientStorageError as error:  # for as long as the lease lasted
            return Failed(failure=JobFailed(code=error.code, message=error.text, is_transient=True))
        except CapacityError as error:  # the store refused for as long as the lease lasted
            return Lost(why=f"what it reported could not be stored ({error.code})")
        except InternalError as error:
            return Lost(why=f"the worker broke the protocol: {error.message}")
        else:
            return ending
        finally:
            self._worker.kill()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await self._worker.wait()

    async def stop(self, reason: StopReason) -> None:
        """Ask the worker to stop; a stronger reason replaces a weaker one.

        `cancel` is stronger than `pause`, and `pause` than `hand_back`.
        """
        if self._asked is not None and _RANK[reason] <= _RANK[self._asked]:
            return
        self._asked = reason
        self._stop_by = asyncio.get_running_loop().time() + self._limits.stop_grace_s
        await self._worker.stop(reason)
        if not self._inbox.full():  # a full inbox wakes the listener anyway
            self._inbox.put_nowait(_StopAsked())

    async def _read(self) -> None:
        fault: str | None = None
        try:
            async for message in self._worker.messages():
                await self._inbox.put(message)
        except InternalError as error:
            logger.warning("job.frame_refused", extra={"job_id": self._spec.job_id})
            fault = error.message
        await self._inbox.put(_Closed(fault))

    async def _listen(self) -> Ending:
        while True:
            try:
                batch = await self._next_batch()
            except TimeoutError:
                return self._overdue()
            said = [m for m in batch if not isinstance(m, _StopAsked | _Closed)]
            if said:
                await self._write(self._news([m for m in said if isinstance(m, Note)]))
            for message in batch:
                if isinstance(message, LastWord):
                    return _ending(message)
                if isinstance(message, _Closed):
                    return await self._lost(message)
            if self._is_stop_overdue():  # it talks on and does not stop
                return self._overdue()

    async def _next_batch(self) -> list[FromWorker | _StopAsked | _Closed]:
        """Wait for something, then take all that is there: one transaction for many events."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.lease_s
        if self._stop_by is not None:
            deadline = min(deadline, self._stop_by)
        async with asyncio.timeout_at(deadline):
            batch = [await self._inbox.get()]
        while not self._inbox.empty():
            batch.append(self._inbox.get_nowait())
        return batch

    def _overdue(self) -> Ending:
        self._worker.kill()
        if self._asked is not None and self._is_stop_overdue():
            logger.warning("job.stop_forced", extra={"job_id": self._spec.job_id})
            return Stopped(reason=self._asked)
        return Lost(why=f"the worker was silent for {self._limits.lease_s:g} s")

    def _is_stop_overdue(self) -> bool:
        return self._stop_by is not None and asyncio.get_running_loop().time() >= self._stop_by

    async def _lost(self, closed: _Closed) -> Ending:
        if closed.fault is not None:
            self._worker.kill()
        status = await self._worker.wait()
        if self._asked is not None:
            return Stopped(reason=self._asked)
        if closed.fault is not None:
            return Lost(why=f"the worker broke the protocol: {closed.fault}")
        if status < 0:
            return Lost(why=f"the worker was killed by signal {-status}")
        return Lost(why=f"the worker exited with status {status} before it was done")

    async def _write(self, notes: list[Note]) -> None:
        """Write the notes and renew the lease; wait out a store that refuses for a while."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._limits.lease_s
        while True:
            try:
                await self._database.write(lambda conn: self._note(conn, notes))
                break
            except CapacityError:
                if loop.time() >= give_up:
                    raise
                await asyncio.sleep(self._limits.lease_s / 10)
        if notes:
            self._bell.ring(events_of(self._spec.job_id))
        if self._trials is not None:
            self._trials.ring(self._bell)
        if any(isinstance(note, CheckpointSaved) for note in notes):
            failpoints.reach("ckpt.committed")

    def _news(self, notes: list[Note]) -> list[Note]:
        """Leave out numbers of steps that an attempt before has told: they are the same."""
        news: list[Note] = []
        for note in notes:
            step = _step_of(note)
            if step is None or step > self._told_step:
                news.append(note)
                self._told_step = step or self._told_step
        return news

    def _note(self, conn: Connection, notes: list[Note]) -> None:
        job_id, fence, now = self._spec.job_id, self._spec.fence, self._clock.now()
        jobs.renew(conn, job_id, fence=fence, now=now, lease_s=self._limits.lease_s)
        for note in notes:
            match note:
                case CheckpointSaved():
                    if note.step > checkpoints.furthest_step(conn, job_id):
                        jobs.count_anew(conn, job_id)  # what was lost before is made up for
                    checkpoints.insert(conn, self._checkpoint(note, now), fence=fence)
                case TrialAsked() | TrialStopped():
                    if self._trials is None:
                        raise InternalError("a job that is no sweep asked for a trial")
                    self._trials.write(conn, note)
                case JobEvent():
                    events.append(
                        conn,
                        job_id,
                        kind=note.kind,
                        level=note.level,
                        message=note.message,
                        data=note.data,
                        now=now,
                        fence=fence,
                    )

    def _checkpoint(self, saved: CheckpointSaved, now: float) -> CheckpointRecord:
        folder, work = Path(saved.folder), Path(self._spec.work_dir)
        if not folder.is_relative_to(work) or ".." in folder.parts:
            raise InternalError("a checkpoint lies outside the job's folder")
        return CheckpointRecord(
            id=new_id("ftckpt_"),
            job_id=self._spec.job_id,
            step=saved.step,
            folder=str(folder.relative_to(work)),  # the data folder may be moved
            digest=saved.digest,
            metrics=saved.metrics,
            created_at=now,
        )

    async def _see_off(self) -> None:
        """Let a worker that has had its last word exit by itself, for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.stop_grace_s):
                await self._worker.wait()


def _step_of(note: Note) -> int | None:
    """Return the step whose numbers the note tells, if it tells any."""
    if isinstance(note, JobEvent) and note.kind == "metrics":
        step = note.data.get("step")
        return step if isinstance(step, int) else None
    return None


def _ending(word: LastWord) -> Ending:
    match word:
        case DatasetBuilt() | ModelTrained() | SweepFinished():
            return Completed(result=word)
        case JobStopped():
            return Stopped(reason=word.reason)
        case JobFailed():
            return Failed(failure=word)
