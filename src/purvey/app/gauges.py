"""Metrics that are looked at rather than counted: what the resident engines hold."""

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from purvey.registry.engines import EnginePool, metrics_label
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


def _show(pool: EnginePool, shown: set[str]) -> set[str]:
    resident: defaultdict[str, list[EngineStats]] = defaultdict(list)
    for engine in pool.loaded():
        known = [engine.stats] if engine.stats else []
        resident[metrics_label(engine.digest)] += known
    for gone in shown - resident.keys():
        for gauge in _GAUGES.values():
            gauge.remove(gone)
    for label, stats in resident.items():
        for field, gauge in _GAUGES.items():
            gauge.labels(model=label).set(sum(getattr(s, field) for s in stats))
    return set(resident)
