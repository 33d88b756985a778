"""Starting a worker process that does not live to receive its spec."""

import sys
from pathlib import Path

import pytest

from purvey.contracts.jobs import JobSpec
from purvey.errors import WorkerCrashedError
from purvey.jobs.launcher import LocalJobLauncher

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
