"""Metrics that are looked at rather than counted: jobs, and what the resident engines hold."""

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

from prometheus_client import Gauge

from purvey.contracts.jobs import TRANSITIONS
from purvey.errors import CapacityError
from purvey.registry.engines.loading import metrics_label
from purvey.registry.engines.pool import EnginePool
from purvey.store import jobs
from purvey.store.database import Database
from purvey.telemetry import metrics

if TYPE_CHECKING:
    from purvey.contracts.engine import EngineStats

_INTERVAL_S = 1.0
_GAUGES = {
    "running": metrics.ENGINE_RUNNING,
    "waiting": metrics.ENGINE_WAITING,
    "free_blocks": metrics.ENGINE_FREE_BLOCKS,
    "total_blocks": metrics.ENGINE_BLOCKS,
}


async def show_engines(pool: EnginePool) -> None:
    """Keep the gauges of resident engines up to date, until cancelled.

    A model that has left memory leaves the gauges too, so their labels stay as few as places.
    """
    shown: set[str] = set()
    while True:
        shown = _show(pool, shown)
        await asyncio.sleep(_INTERVAL_S)


async def show_jobs(
    database: Database, *, gauge: Gauge = metrics.JOBS, interval_s: float = 5.0
) -> None:
    """Keep the gauge of jobs by status up to date, until cancelled."""
    while True:
        with suppress(CapacityError):  # the store refuses; the next look may be luckier
            counts = await database.read(jobs.count_by_status)
            for status in TRANSITIONS:
                gauge.labels(status).set(counts.get(status, 0))
        await asyncio.sleep(interval_s)


def _show(pool: EnginePool, shown: set[str]) -> set[str]:
    resident: defaultdict[str, list[EngineStats]] = defaultdict(list)
    for engine in pool.engines():
        if engine.model is None:
            continue
        known = [engine.stats] if engine.stats else []
        resident[metrics_label(engine.digest)] += known
    for gone in shown - resident.keys():
        for gauge in _GAUGES.values():
            gauge.remove(gone)
    for label, stats in resident.items():
        for field, gauge in _GAUGES.items():
            gauge.labels(model=label).set(sum(getattr(s, field) for s in stats))
    return set(resident)
