"""What jobs tell, passed on to a tracking server as fast as it takes it and no faster.

Events are read from the store in the order of their commits; how far that is stands in a file of
the cache, with that server's address in its name. Whatever is lost there, or told twice because
the server was killed in between, does no harm: runs are found by their job's id, and each says
which of its events it holds. A server that is dead, slow or mad costs a log line and a wait.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from purvey.contracts.jobs import TERMINAL, JobKind
from purvey.contracts.records import JobEventRecord, JobRecord
from purvey.errors import CapacityError, UpstreamNotAllowedError
from purvey.jobs.sweeps.ending import sweep_of
from purvey.server.reporting.tracking.mlflow import (
    METRICS_AT_ONCE,
    PARAMS_AT_ONCE,
    Mlflow,
    RefusedError,
    Run,
)
from purvey.server.reporting.tracking.saying import (
    JOB_TAG,
    PARENT_TAG,
    SEQ_TAG,
    STATUSES,
    end_tags,
    environment_of,
    metrics_of,
    name_of,
    params_of,
    tags_of,
    tested,
)
from purvey.store import events, jobs
from purvey.store.database import Database
from purvey.telemetry import metrics

logger = logging.getLogger(__name__)

INTERVAL_S, LONGEST_WAIT_S = 2.0, 60.0
EVENTS_AT_ONCE, RUNS_HELD = 1_000, 1_000
TOLD: tuple[JobKind, ...] = ("training", "sweep")


@dataclass(frozen=True, kw_only=True)
class _News:
    """Events by job, in order, up to a position, and the jobs they are of with their sweeps."""

    position: int
    events: dict[str, list[JobEventRecord]]
    jobs: dict[str, JobRecord]
    is_all: bool


class Follower:
    """Tells one tracking server of the jobs of all projects.

    Args:
        database: Where jobs and events are.
        mlflow: Who is told.
        mark: The file that says how far.
    """

    def __init__(self, database: Database, mlflow: Mlflow, *, mark: Path) -> None:
        self._database, self._mlflow, self._mark = database, mlflow, mark
        self._experiment_id: str | None = None
        self._runs: dict[str, Run] = {}
        self._waits_s = INTERVAL_S
        self._is_well = True

    async def follow(self) -> None:
        """Tell until cancelled."""
        try:
            while True:
                await self._tell_all()
                await asyncio.sleep(self._waits_s)
        finally:
            await self._mlflow.close()

    async def tell(self) -> bool:
        """Tell what is new, as much as is read at one time; return whether that was all.

        Raises:
            UpstreamNotAllowedError: The server is not there or not well; nothing is lost.
            RefusedError: It takes no experiment of that name.
            CapacityError: The database, or all connections, are busy.
            OSError: The mark cannot be written.
        """
        position = await asyncio.to_thread(_read, self._mark)
        news = await self._database.read(_reader(position))
        if not news.events:
            return True
        experiment_id = self._experiment_id or await self._mlflow.experiment_id()
        self._experiment_id = experiment_id
        for job_id, told in news.events.items():
            try:
                await self._tell_job(experiment_id, news, news.jobs[job_id], told)
            except RefusedError as error:  # of this run; the others go on
                logger.warning("mlflow.refused", extra={"job_id": job_id, "code": error.code})
                self._runs.pop(job_id, None)
                self._experiment_id = None  # it may be what is gone
        await asyncio.to_thread(_write, self._mark, news.position)
        return news.is_all

    async def _tell_all(self) -> None:
        try:
            while not await self.tell():
                pass
            self._waits_s, self._is_well = INTERVAL_S, True
        except (UpstreamNotAllowedError, CapacityError, RefusedError, OSError) as error:
            self._rest(error)
        except (LookupError, TypeError, ValueError) as error:  # ours: it must not end the server
            metrics.BROAD_CATCHES.labels(where="server.tracking").inc()
            logger.exception("mlflow.broken")
            self._rest(error)

    async def _tell_job(
        self, experiment_id: str, news: _News, job: JobRecord, told: list[JobEventRecord]
    ) -> None:
        run = await self._run(experiment_id, news, job)
        held = run.tags.get(SEQ_TAG, "")
        fresh = [event for event in told if not held.isdecimal() or event.seq > int(held)]
        if not fresh:
            return
        numbers = list(metrics_of(fresh))
        for start in range(0, len(numbers), METRICS_AT_ONCE):
            await self._mlflow.log(run.id, metrics=numbers[start : start + METRICS_AT_ONCE])
        await self._mlflow.update(run.id, STATUSES[job.status], ended_at=job.finished_at)
        ends = job.status in TERMINAL
        tags = environment_of(fresh) | (end_tags(job) if ends else {})
        tags[SEQ_TAG] = str(fresh[-1].seq)  # last: what is cut off before it is told again
        await self._mlflow.log(run.id, metrics=tested(job) if ends else (), tags=tags)
        self._runs[job.id] = Run(id=run.id, tags={SEQ_TAG: tags[SEQ_TAG]})

    async def _run(self, experiment_id: str, news: _News, job: JobRecord) -> Run:
        """Return a job's run, begun if it is not there, with its parameters told."""
        if job.id in self._runs:
            return self._runs[job.id]
        run = await self._mlflow.find_run(experiment_id, JOB_TAG, job.id)
        if run is None:
            tags, sweep = tags_of(job), news.jobs.get(sweep_of(job) or "")
            if sweep is not None:
                tags[PARENT_TAG] = (await self._run(experiment_id, news, sweep)).id
            run = await self._mlflow.create_run(
                experiment_id, name=name_of(job), began_at=job.created_at, tags=tags
            )
        if SEQ_TAG not in run.tags:
            params = list(params_of(job).items())
            for start in range(0, len(params), PARAMS_AT_ONCE):
                await self._mlflow.log(run.id, params=dict(params[start : start + PARAMS_AT_ONCE]))
        while len(self._runs) >= RUNS_HELD:
            del self._runs[next(iter(self._runs))]
        self._runs[job.id] = run
        return run

    def _rest(self, error: Exception) -> None:
        """Wait longer than the last time; say so once for each time that the server is not well."""
        if self._is_well:
            told = {"reason": type(error).__name__, "code": getattr(error, "code", "")}
            logger.warning("mlflow.failed", extra=told)
        self._is_well = False
        self._waits_s = min(LONGEST_WAIT_S, self._waits_s * 2)
        self._experiment_id = None


def _reader(position: int) -> Callable[[Connection], _News]:
    def work(conn: Connection) -> _News:
        begin = position if position <= events.newest(conn) else 0  # an older store was put back
        end, found = events.beyond(conn, begin, kinds=TOLD, limit=EVENTS_AT_ONCE)
        by_job: dict[str, list[JobEventRecord]] = {}
        for event in found:
            by_job.setdefault(event.job_id, []).append(event)
        known = {job_id: jobs.find(conn, job_id) for job_id in by_job}
        sweeps = {sweep for job in known.values() if (sweep := sweep_of(job))}
        known |= {sweep: jobs.find(conn, sweep) for sweep in sweeps - known.keys()}
        is_all = len(found) < EVENTS_AT_ONCE
        return _News(position=end, events=by_job, jobs=known, is_all=is_all)

    return work


def _read(mark: Path) -> int:
    """Return how far was told; 0 where nobody knows, which tells everything again."""
    try:
        return int(mark.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _write(mark: Path, position: int) -> None:
    mark.parent.mkdir(parents=True, exist_ok=True)
    fresh = mark.with_suffix(".new")
    fresh.write_text(str(position), encoding="ascii")
    fresh.replace(mark)
