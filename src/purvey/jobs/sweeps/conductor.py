"""Telling a sweep's worker how its trials go, and keeping no model but the best one's."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field

from sqlalchemy import Connection

from purvey.contracts.clock import Clock
from purvey.contracts.records import JobEventRecord, JobRecord
from purvey.contracts.sweep.config import NOT_VALIDATED
from purvey.contracts.sweep.messages import Trial, TrialNews
from purvey.errors import CapacityError
from purvey.jobs.bell import Bell, events_of
from purvey.jobs.launcher import JobWorker
from purvey.jobs.sweeps.standing import TrialView, best_of, config_of, error_of, trials_of
from purvey.store import events
from purvey.store.artifacts import Artifacts
from purvey.store.database import Database
from purvey.store.sweeper import collect_artifact
from purvey.store.sweeps import trials
from purvey.telemetry import metrics

logger = logging.getLogger(__name__)


@dataclass
class _Followed:
    """What has been read and told of one trial."""

    job_id: str
    seq: int = 0
    evaluations: list[float] = field(default_factory=list)
    measured: tuple[str, ...] = ()
    told: Trial | None = None


@dataclass(frozen=True)
class _Look:
    """What one look at the rows has found of the trials that were not known to have ended."""

    views: list[TrialView]
    fresh: dict[int, list[JobEventRecord]]


class Conductor:
    """Follows the trials of one sweep for one attempt of its worker. One task awaits `run`.

    Args:
        sweep: The sweep's job.
        worker: Who is told.
        database: Where trials are.
        artifacts: Their models.
        bell: Says when there may be news.
        clock: Time, for what is left of it.
        look_s: Longest pause between two looks.
    """

    def __init__(
        self,
        sweep: JobRecord,
        worker: JobWorker,
        *,
        database: Database,
        artifacts: Artifacts,
        bell: Bell,
        clock: Clock,
        look_s: float,
    ) -> None:
        self._sweep, self._worker, self._config = sweep, worker, config_of(sweep)
        self._database, self._artifacts = database, artifacts
        self._bell, self._clock, self._look_s = bell, clock, look_s
        self._followed: dict[int, _Followed] = {}
        self._has_told = False
        self._has_ended = False  # a trial has, since models were last looked at
        self._given_up: list[str] = []  # digests that no trial keeps any more

    async def run(self) -> None:
        """Tell the worker of every trial, then of every change, until cancelled."""
        while True:
            unfinished = [f.job_id for f in self._followed.values() if _is_open(f)]
            topics = [events_of(job_id) for job_id in (self._sweep.id, *unfinished)]
            with self._bell.listen(*topics) as heard:
                with contextlib.suppress(CapacityError):  # the next look may be luckier
                    await self._tell()
                    await self._let_go()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._look_s):
                        await heard.wait()

    async def clear_up(self) -> None:
        """Remove the models that trials have given up; `run` may be cut off before it does."""
        while self._given_up:
            await collect_artifact(self._database, self._artifacts, self._given_up[-1])
            self._given_up.pop()

    async def _tell(self) -> None:
        look = await self._database.read(self._look)
        news = tuple(t for view in look.views if (t := self._changed(view, look.fresh)) is not None)
        if not news and self._has_told:
            return
        await self._worker.tell(TrialNews(trials=news, seconds_left=self._seconds_left()))
        for trial in news:
            if trial.state != "running":
                self._has_ended = True
                if self._has_told:
                    metrics.SWEEP_TRIALS.labels(state=trial.state).inc()
            self._followed[trial.number].told = trial
        self._has_told = True
        self._bell.ring(events_of(self._sweep.id))  # the end of a trial is told there

    def _look(self, conn: Connection) -> _Look:
        over = [number for number, known in self._followed.items() if not _is_open(known)]
        views = trials_of(conn, self._sweep, but=over)
        fresh = {}
        for view in views:
            known = self._followed.get(view.record.number)
            seq = known.seq if known is not None else 0
            fresh[view.record.number] = events.since(conn, view.job.id, seq)
        return _Look(views, fresh)

    def _changed(self, view: TrialView, fresh: dict[int, list[JobEventRecord]]) -> Trial | None:
        """Take in what is new of a trial; return it if that changes anything."""
        number = view.record.number
        followed = self._followed.setdefault(number, _Followed(view.job.id))
        for event in fresh.get(number, ()):
            followed.seq = event.seq
            self._take(followed, event)
        trial = Trial(
            number=number,
            parameters=view.record.parameters,
            state=view.state,
            evaluations=tuple(followed.evaluations),
            value=view.value,
            measured=followed.measured,
            error=error_of(view.job, view.state),
        )
        return None if trial == followed.told else trial

    def _take(self, followed: _Followed, event: JobEventRecord) -> None:
        numbers = {
            name: value
            for name, value in event.data.items()
            if isinstance(value, int | float) and name not in NOT_VALIDATED
        }
        if event.type != "metrics" or not {"valid_loss", self._config.metric} & numbers.keys():
            return
        followed.measured = tuple(sorted(numbers))
        if self._config.metric in numbers:
            followed.evaluations.append(float(numbers[self._config.metric]))

    def _seconds_left(self) -> float | None:
        if self._config.max_minutes is None:
            return None
        began = self._sweep.started_at or self._clock.now()
        return max(0.0, began + 60 * self._config.max_minutes - self._clock.now())

    async def _let_go(self) -> None:
        """Remove the models of trials that have ended and are not the best."""
        if not self._has_ended:
            return
        if await self._database.read(self._beaten):
            await self._database.write(self._give_up_beaten)
        self._has_ended = False
        await self.clear_up()

    def _beaten(self, conn: Connection) -> list[int]:
        views = trials_of(conn, self._sweep)
        best = best_of(views, self._config.direction)
        return [v.record.number for v in views if v.record.artifact is not None and v is not best]

    def _give_up_beaten(self, conn: Connection) -> None:
        self._given_up += trials.let_go(conn, self._sweep.id, numbers=self._beaten(conn))


def _is_open(followed: _Followed) -> bool:
    return followed.told is None or followed.told.state == "running"


def log_break(task: "asyncio.Task[None]", *, sweep_id: str, worker: JobWorker) -> None:
    """Have a worker that nobody tells anything any more end, and another attempt take its place."""
    if task.cancelled() or task.exception() is None:
        return
    logger.error("sweep.broke", extra={"job_id": sweep_id}, exc_info=task.exception())
    metrics.BROAD_CATCHES.labels(where="jobs.sweep").inc()
    worker.kill()
