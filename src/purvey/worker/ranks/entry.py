"""Mode `rank`: be another rank of a run, from its data to the end of its training."""

from pathlib import Path
from typing import Any, Literal

from purvey import failpoints
from purvey.contracts.clock import SystemClock
from purvey.contracts.jobs import (
    CheckpointSaved,
    JobFailed,
    RankReady,
    RankSpec,
    StopReason,
    ToRank,
)
from purvey.contracts.recipe import parse_recipe
from purvey.errors import PurveyError
from purvey.ipc.link import Link
from purvey.telemetry.logs import bind
from purvey.train.parallel.group import connected
from purvey.worker.job import failure_of
from purvey.worker.job_link import JobInterrupted
from purvey.worker.ranks.teams import RankDone
from purvey.worker.train import train_rank


def run(link: Link[ToRank]) -> int:
    """Receive a spec and do the rank's part.

    Returns:
        The exit status: 0 when it was done, or stopped with the others; 1 after a failure that
        the first rank was told, or a bug, whose traceback is in the log; 2 when no spec came.
    """
    spec = link.receive()
    if not isinstance(spec, RankSpec):
        return 2
    with bind(job_id=spec.job.job_id):
        failure = _failure(spec, link)
    if failure is None:
        return 0
    link.send(failure)
    return 1


class Silence:
    """What a rank has to say: nothing that the first one does not say too."""

    stop_requested: StopReason | None = None

    def event(
        self, message: str, *, level: Literal["info", "warn", "error"] = "info", **data: object
    ) -> None:
        """Tell nobody."""

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        """Tell nobody."""

    def checkpoint(self, saved: CheckpointSaved) -> None:
        """Tell nobody."""


def _failure(spec: RankSpec, link: Link[ToRank]) -> JobFailed | None:
    failpoints.arm(spec.job.failpoints)
    link.send(RankReady())
    try:
        with connected(Path(spec.store), rank=spec.rank, size=spec.size) as group:
            train_rank(
                spec.job,
                parse_recipe(spec.job.recipe),
                link=Silence(),
                clock=SystemClock(),
                group=group,
            )
    except (JobInterrupted, RankDone):
        return None
    except (PurveyError, OSError) as error:
        return failure_of(error)
    return None
