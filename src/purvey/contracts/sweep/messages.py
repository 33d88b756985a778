"""What a sweep and its worker say to each other: the worker asks for trials, and is told of them.

The worker decides and keeps nothing: all that it knows of trials it is told, at first and after
each change, so another worker goes on where one was killed.
"""

from typing import Any, Literal

import msgspec

TrialState = Literal["running", "complete", "pruned", "stopped", "cancelled", "failed"]
"""`running` has a job that has not ended. `complete` has a value. `pruned` was given up because
others were better by then, `stopped` because the sweep's time was over; `cancelled` was ended by
its owner."""
StopCause = Literal["pruned", "time"]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One trial as it stands.

    Args:
        number: From 0, without a gap.
        parameters: Recipe field to value.
        state: Where it stands.
        evaluations: The sweep's metric at each evaluation on the validation split so far.
        value: That metric of the weights that are kept; None unless `complete`.
        measured: Names of all that its evaluations measure, as far as there were any.
        error: Why it failed.
    """

    number: int
    parameters: dict[str, Any]  # JSON values
    state: TrialState = "running"
    evaluations: tuple[float, ...] = ()
    value: float | None = None
    measured: tuple[str, ...] = ()
    error: str | None = None


class TrialNews(msgspec.Struct, frozen=True, kw_only=True, tag="trial_news"):
    """To the worker: every trial that has changed since the last news; at first, every trial.

    Args:
        trials: As they stand now, by number.
        seconds_left: Until the sweep's time is over; None where it has no such limit.
    """

    trials: tuple[Trial, ...] = ()
    seconds_left: float | None = None


class TrialAsked(msgspec.Struct, frozen=True, kw_only=True, tag="trial_asked"):
    """From the worker: begin a trial. Its number is the next one."""

    number: int
    parameters: dict[str, Any]  # JSON values


class TrialStopped(msgspec.Struct, frozen=True, kw_only=True, tag="trial_stopped"):
    """From the worker: end a trial that runs."""

    number: int
    reason: StopCause


class SweepFinished(msgspec.Struct, frozen=True, kw_only=True, tag="sweep_finished"):
    """From the worker: every trial has ended, and at least one is complete. Its last message."""

    num_trials: int
