"""What an ending means for the job: a pure decision, and its write in one transaction."""

from dataclasses import dataclass
from typing import Any, Literal, assert_never

from sqlalchemy import Connection

from purvey.contracts.jobs import TERMINAL, JobFailed, JobStatus
from purvey.contracts.records import JobRecord
from purvey.errors import InsufficientStorageError, WorkerCrashedError
from purvey.jobs.endings import Completed, Ending, Failed, Lost, Starved, Stopped, Superseded
from purvey.jobs.hooks import JobHooks
from purvey.jobs.sweeps.ending import follow_up
from purvey.store import events, jobs
from purvey.store.artifacts import Artifact


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Where the job goes, and what its owner is told.

    Args:
        to: The new status.
        level: Of the event.
        message: Of the event.
        error: `code`, `message`, `param`, when it failed; of a job that waits for room on the
            disk also `needed_bytes`.
        is_counted: Whether the attempt counts against the most allowed.
        is_retry: Whether it waits a little in the queue before the next attempt.
    """

    to: JobStatus
    level: Literal["info", "warn", "error"]
    message: str
    error: dict[str, str | int | None] | None = None
    is_counted: bool = True
    is_retry: bool = False

    @property
    def is_starved(self) -> bool:
        """Whether the job waits for room on the disk."""
        return self.to == "paused" and self.error is not None


def decide(job: JobRecord, ending: Ending, *, max_attempts: int) -> Verdict:
    """Decide from the ending and from what the owner wants by now.

    A wish to cancel wins over every ending. Pausing, handing back and a full disk cost no
    attempt; a lost worker, and a server that died with it, do.
    """
    assert not isinstance(ending, Superseded), "a superseded attempt decides nothing"  # noqa: S101
    if job.wanted == "cancel":
        return Verdict(to="cancelled", level="info", message="The job is cancelled.")
    match ending:
        case Completed():
            return Verdict(to="succeeded", level="info", message="The job has succeeded.")
        case Stopped():
            return _after_stop(job)
        case Starved(needed_bytes=needed_bytes):
            return _after_stop(job) if job.wanted == "pause" else _set_aside(needed_bytes)
        case Failed(failure=failure):
            return _after_failure(job, failure, max_attempts=max_attempts)
        case Lost(why=why):
            return _after_failure(job, _as_failure(why), max_attempts=max_attempts)
        case _ as never:
            assert_never(never)


def record(
    conn: Connection,
    job: JobRecord,
    ending: Ending,
    *,
    hooks: JobHooks,
    max_attempts: int,
    now: float,
    compute_s: float = 0.0,
    artifact: Artifact | None = None,
) -> Verdict:
    """Write the verdict: event, move, and effects, all of them or none.

    Args:
        conn: The transaction.
        job: The job as its attempt knew it; its fence guards the write.
        ending: How the attempt ended.
        hooks: Effects of success and of the end.
        max_attempts: Attempts a job may have.
        now: Epoch seconds.
        compute_s: Seconds of computing that this attempt adds.
        artifact: What was published, for a `Completed` ending; a sweep publishes nothing.

    Raises:
        StaleFencingTokenError: Another attempt took over; nothing was written.
    """
    jobs.guard(conn, job.id, job.fence)
    job = jobs.find(conn, job.id)
    verdict = decide(job, ending, max_attempts=max_attempts)
    changes: dict[str, Any] = {  # columns of the job
        "compute_s": job.compute_s + compute_s,
        "error": verdict.error,
        "attempt": job.attempt if verdict.is_counted else job.attempt - 1,
    }
    if verdict.to == "succeeded" and isinstance(ending, Completed):
        changes |= hooks.outcome(conn, job, ending.result, artifact)
    events.append(
        conn,
        job.id,
        kind="message",
        level=verdict.level,
        message=verdict.message,
        data=dict(verdict.error or {}) if verdict.is_starved else {},
        now=now,
        fence=job.fence,
    )
    moved = jobs.move(conn, job.id, to=verdict.to, now=now, fence=job.fence, **changes)
    if moved.status in TERMINAL:
        hooks.ended(conn, moved)
        follow_up(conn, moved, now=now, ended=hooks.ended)
    return verdict


def _after_stop(job: JobRecord) -> Verdict:
    if job.wanted == "pause":
        message = "The job is paused; it goes on from its newest checkpoint when resumed."
        return Verdict(to="paused", level="info", message=message, is_counted=False)
    message = "The server stops; the job goes on when it is back."
    return Verdict(to="queued", level="info", message=message, is_counted=False)


def _set_aside(needed_bytes: int) -> Verdict:
    message = (
        "The disk is full. The job is paused, and goes on by itself once "
        f"{-(-needed_bytes // 2**20):,} MiB are free."
    )
    code = InsufficientStorageError.code
    return Verdict(
        to="paused",
        level="warn",
        message=f"{code}: {message}",
        error={"code": code, "message": message, "param": None, "needed_bytes": needed_bytes},
        is_counted=False,
    )


def _after_failure(job: JobRecord, failure: JobFailed, *, max_attempts: int) -> Verdict:
    if failure.is_transient and job.wanted == "pause":
        return _after_stop(job)
    if failure.is_transient and job.attempt < max_attempts:
        message = f"Attempt {job.attempt} of {max_attempts} was lost: {failure.message}"
        return Verdict(to="queued", level="warn", message=message, is_retry=True)
    error: dict[str, str | int | None] = {
        "code": failure.code,
        "message": failure.message,
        "param": failure.param,
    }
    message = f"The job has failed: {failure.message}"
    return Verdict(to="failed", level="error", message=message, error=error)


def _as_failure(why: str) -> JobFailed:
    return JobFailed(code=WorkerCrashedError.code, message=f"{why}.", is_transient=True)
