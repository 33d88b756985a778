"""A server killed with SIGKILL in the middle of a job: its worker ends, the next server goes on."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from purvey.contracts.jobs import TERMINAL
from purvey.jobs.launcher import LocalJobLauncher
from purvey.testing.workshop import Workshop

HERE = Path(__file__).parent


WORKER = str(HERE / "acting_worker.py")


def run_server_and_kill_it(folder: Path) -> str:
    """Return the id of the job it was at; its worker has ended."""
    command = [sys.executable, str(HERE / "killed_server.py"), str(folder), WORKER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        job_id = server.stdout.readline().strip()
        [worker] = psutil.Process(server.pid).children(recursive=True)
        server.send_signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
    psutil.wait_procs([worker], timeout=30)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    return job_id


@pytest.mark.row("CRA-03")
async def test_a_killed_servers_job_is_finished_by_the_next(tmp_path: Path) -> None:
    job_id = await asyncio.to_thread(run_server_and_kill_it, tmp_path)
    launcher = LocalJobLauncher(command=(sys.executable, "-P", WORKER))
    async with Workshop(tmp_path, launcher) as workshop:
        done = await workshop.until(job_id, *TERMINAL)
        assert (done.status, done.attempt, done.fence) == ("succeeded", 2, 2)
        said = [event.message for event in await workshop.history(job_id)]
        assert "Attempt 1 of 3 was lost: the server stopped while it ran." in said
        await workshop.check(job_id)
