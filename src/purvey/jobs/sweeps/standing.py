"""Where a sweep stands: its trials, their values, the best of them. Read from rows alone."""

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import assert_never

from sqlalchemy import Connection

from purvey.contracts.jobs import JobStatus
from purvey.contracts.records import JobRecord, TrialRecord
from purvey.contracts.sweep.config import Direction, SweepConfig
from purvey.contracts.sweep.messages import StopCause, TrialState
from purvey.store.sweeps import trials


@dataclass(frozen=True, kw_only=True)
class TrialView:
    """A trial with its job.

    Args:
        record: Its row.
        job: The job that it is.
        state: What both come to.
        value: The sweep's metric of the weights that are kept, once `complete`.
    """

    record: TrialRecord
    job: JobRecord
    state: TrialState
    value: float | None


def config_of(sweep: JobRecord) -> SweepConfig:
    """Return what a sweep's job was asked for."""
    return SweepConfig.model_validate(sweep.recipe)


def trials_of(conn: Connection, sweep: JobRecord, *, but: Collection[int] = ()) -> list[TrialView]:
    """List a sweep's trials by number, all `but` some."""
    metric = str(sweep.recipe.get("metric"))
    return [
        _view(record, job, metric=metric)
        for record, job in trials.with_jobs(conn, sweep.id, but=but)
    ]


def best_of(views: Iterable[TrialView], direction: Direction) -> TrialView | None:
    """Return the best complete trial, of equals the first; None where none is complete."""
    sign = 1 if direction == "minimize" else -1
    valued = [(sign * v.value, v.record.number, v) for v in views if v.value is not None]
    return min(valued, key=lambda one: one[:2])[2] if valued else None


def counts_of(views: Iterable[TrialView]) -> dict[TrialState, int]:
    """Count trials by state; a state that none has is left out."""
    return dict(Counter(view.state for view in views))


def error_of(job: JobRecord, state: TrialState) -> str | None:
    """Say why a trial failed."""
    if state != "failed":
        return None
    if job.error is not None:
        return str(job.error.get("message"))
    return "it measured nothing to compare it by."


def _view(record: TrialRecord, job: JobRecord, *, metric: str) -> TrialView:
    value = _value(job, metric) if job.status == "succeeded" else None
    state = _state(job.status, stopped=record.stopped, has_value=value is not None)
    return TrialView(record=record, job=job, state=state, value=value)


def _value(job: JobRecord, metric: str) -> float | None:
    found = (job.result or {}).get("validation", {}).get(metric)
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


def _state(status: JobStatus, *, stopped: StopCause | None, has_value: bool) -> TrialState:
    match status:
        case "succeeded":
            return "complete" if has_value else "failed"
        case "failed":
            return "failed"
        case "cancelled":
            return _cause(stopped)
        case "validating_files" | "queued" | "running" | "paused":
            return "running"
        case _ as never:
            assert_never(never)


def _cause(stopped: StopCause | None) -> TrialState:
    match stopped:
        case None:
            return "cancelled"
        case "pruned":
            return "pruned"
        case "time":
            return "stopped"
        case _ as never:
            assert_never(never)
