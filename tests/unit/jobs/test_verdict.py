"""Where each ending takes a job."""

from typing import Literal

import pytest

from purvey.contracts.jobs import TERMINAL, JobFailed, JobStatus, ModelTrained, StopReason, may_move
from purvey.contracts.records import JobRecord
from purvey.jobs.endings import Completed, Ending, Failed, Lost, Starved, Stopped, Superseded
from purvey.jobs.verdict import decide

Wanted = Literal["run", "pause", "cancel"]
DONE = Completed(result=ModelTrained())
LOST = Lost(why="the worker was killed by signal 9")
BAD = Failed(failure=JobFailed(code="diverged", message="the loss is not finite."))
REFUSED = Failed(failure=JobFailed(code="storage_unavailable", message="io.", is_transient=True))
FULL = Starved(needed_bytes=2**20)


def stopped(reason: StopReason) -> Stopped:
    return Stopped(reason=reason)


def running(*, wanted: Wanted, attempt: int = 1) -> JobRecord:
    return JobRecord(
        id="job_1",
        project_id="proj_default",
        key_id="key_0",
        api="training",
        kind="training",
        status="running",
        created_at=0.0,
        recipe={},
        recipe_digest="",
        attempt=attempt,
        fence=attempt,
        wanted=wanted,
    )


@pytest.mark.parametrize(
    ("ending", "wanted", "attempt", "to", "is_counted", "is_retry"),
    [
        (DONE, "run", 1, "succeeded", True, False),
        (DONE, "pause", 1, "succeeded", True, False),
        (DONE, "cancel", 1, "cancelled", True, False),
        (stopped("cancel"), "cancel", 1, "cancelled", True, False),
        (stopped("pause"), "pause", 1, "paused", False, False),
        (stopped("pause"), "cancel", 1, "cancelled", True, False),
        (stopped("hand_back"), "run", 1, "queued", False, False),
        (stopped("hand_back"), "pause", 1, "paused", False, False),
        (LOST, "run", 1, "queued", True, True),
        (LOST, "run", 2, "queued", True, True),
        (LOST, "run", 3, "failed", True, False),
        (LOST, "pause", 3, "paused", False, False),
        (LOST, "cancel", 1, "cancelled", True, False),
        (REFUSED, "run", 1, "queued", True, True),
        (REFUSED, "run", 3, "failed", True, False),
        (FULL, "run", 1, "paused", False, False),
        (FULL, "run", 3, "paused", False, False),
        (FULL, "pause", 1, "paused", False, False),
        (FULL, "cancel", 1, "cancelled", True, False),
        (BAD, "run", 1, "failed", True, False),
        (BAD, "pause", 1, "failed", True, False),
        (BAD, "cancel", 1, "cancelled", True, False),
    ],
)
def test_every_ending_has_one_legal_verdict(
    ending: Ending,
    wanted: Wanted,
    attempt: int,
    to: JobStatus,
    *,
    is_counted: bool,
    is_retry: bool,
) -> None:
    verdict = decide(running(wanted=wanted, attempt=attempt), ending, max_attempts=3)
    assert (verdict.to, verdict.is_counted, verdict.is_retry) == (to, is_counted, is_retry)
    assert may_move("running", verdict.to)
    assert verdict.is_starved == (ending is FULL and wanted == "run")
    assert (verdict.error is not None) == (to == "failed" or verdict.is_starved)
    assert not (verdict.is_retry and verdict.to in TERMINAL)


def test_a_lost_worker_is_told_of_with_its_cause() -> None:
    verdict = decide(running(wanted="run", attempt=3), LOST, max_attempts=3)
    assert verdict.error == {
        "code": "worker_crashed",
        "message": "the worker was killed by signal 9.",
        "param": None,
    }


def test_a_superseded_attempt_decides_nothing() -> None:
    with pytest.raises(AssertionError, match="decides nothing"):
        decide(running(wanted="run"), Superseded(), max_attempts=3)


def test_a_full_disk_is_told_with_what_the_job_waits_for() -> None:
    verdict = decide(running(wanted="run"), Starved(needed_bytes=3 * 2**20 - 1), max_attempts=3)
    assert verdict.error is not None
    assert verdict.error["code"] == "insufficient_storage"
    assert verdict.error["needed_bytes"] == 3 * 2**20 - 1
    assert "once 3 MiB are free" in str(verdict.error["message"])
