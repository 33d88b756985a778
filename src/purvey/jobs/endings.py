"""How an attempt can end. Every attempt ends in exactly one of these."""

from dataclasses import dataclass

from purvey.contracts.jobs import DatasetBuilt, JobFailed, ModelTrained, StopReason
from purvey.contracts.sweep.messages import SweepFinished


@dataclass(frozen=True, kw_only=True)
class Completed:
    """The worker delivered its result, which lies in the output folder; a sweep's has no files."""

    result: DatasetBuilt | ModelTrained | SweepFinished


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The worker obeyed a request to stop, or was killed when it did not in time."""

    reason: StopReason


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The run said that it cannot succeed, or (`is_transient`) not this time."""

    failure: JobFailed


@dataclass(frozen=True, kw_only=True)
class Starved:
    """The disk was full: nothing is wrong with the run, which goes on where there is room.

    Args:
        needed_bytes: What must be free on the disk of the data folder before it goes on.
    """

    needed_bytes: int


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The worker died or fell silent without a last word. `why` is for the owner to read."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Superseded:
    """Another attempt holds the lease: nothing may be written any more."""


Ending = Completed | Stopped | Failed | Starved | Lost | Superseded
