"""Gauges that somebody keeps up to date."""

import asyncio
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge

from purvey.app import gauges
from purvey.testing.scripted_jobs import ScriptedJobLauncher, until_stopped
from purvey.testing.workshop import Workshop

REGISTRY = CollectorRegistry()
"""Of this test alone: other tests' servers show their jobs in the process's own."""
JOBS = Gauge("jobs", "Jobs.", ("status",), registry=REGISTRY)


def _jobs(status: str) -> float | None:
    return REGISTRY.get_sample_value("jobs", {"status": status})


async def test_jobs_are_shown_by_status(tmp_path: Path) -> None:
    async with Workshop(tmp_path, ScriptedJobLauncher(until_stopped)) as workshop:
        running = await workshop.submit()
        await workshop.until_event(running.id, "Waiting.")
        for _ in range(2):
            await workshop.submit()
        showing = asyncio.create_task(
            gauges.show_jobs(workshop.database, gauge=JOBS, interval_s=0.01)
        )
        await _until("queued", 2.0)
        assert (_jobs("running"), _jobs("failed")) == (1.0, 0.0)
        await workshop.service.cancel(running.project_id, running.id)
        await _until("cancelled", 1.0)
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


async def _until(status: str, count: float) -> None:
    async with asyncio.timeout(10):
        while _jobs(status) != count:  # noqa: ASYNC110 (a metric has no event)
            await asyncio.sleep(0.01)
