"""Starting a worker process that does not live to receive its spec."""

import sys
from pathlib import Path

import pytest

from purvey.contracts.jobs import JobSpec
from purvey.errors import WorkerCrashedError
from purvey.jobs.launcher import LocalJobLauncher
from purvey.jobs.run import RunConfig
from purvey.testing.workshop import Workshop

# Larger than a socket buffers, so that sending waits for a reader that never comes.
SPEC = JobSpec(
    job_id="job_1",
    kind="training",
    attempt=1,
    fence=1,
    recipe={"padding": "x" * 4_000_000},
    work_dir="/tmp",  # noqa: S108 (nothing is written)
    output_dir="/tmp",  # noqa: S108
)


async def test_a_worker_that_dies_before_its_spec_is_an_error(tmp_path: Path) -> None:
    launcher = LocalJobLauncher(command=(sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(WorkerCrashedError, match="is gone"):
        await launcher.launch(SPEC)


async def test_a_worker_that_never_reads_its_spec_loses_the_job_with_its_lease(
    tmp_path: Path,
) -> None:
    deaf = (sys.executable, "-c", "import threading; threading.Event().wait()")
    config = RunConfig(lease_s=0.3, max_attempts=1)
    async with Workshop(tmp_path, LocalJobLauncher(command=deaf), config=config) as workshop:
        job = await workshop.submit(**SPEC.recipe)
        failed = await workshop.until(job.id, "failed")
    assert failed.error is not None
    assert failed.error["code"] == "worker_crashed"
    assert "did not take its job within 0.3 s" in str(failed.error["message"])
