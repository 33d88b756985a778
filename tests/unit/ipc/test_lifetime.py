"""Children end with their parent, also when it is killed."""

import signal
import subprocess
import sys

import psutil

PARENT = """
import asyncio, sys
from pathlib import Path
from purvey.contracts.jobs import FromWorker
from purvey.ipc.child import spawn

async def main():
    child = await spawn("job", incoming=FromWorker, env={}, cwd=Path.cwd(), command=sys.argv[1:])
    async for message in child.messages():
        print(child.pid, flush=True)

asyncio.run(main())
"""
CHILD = """
import sys, threading
from purvey.contracts.jobs import Heartbeat, ToWorker
from purvey.ipc.lifetime import die_with_parent
from purvey.ipc.link import Link
fd, parent = int(sys.argv[2]), int(sys.argv[4])
die_with_parent(parent)
Link(fd, ToWorker).send(Heartbeat())
threading.Event().wait()  # it does not read its link: only the kernel can end it
"""


def test_a_child_dies_when_its_parent_is_killed() -> None:
    command = [sys.executable, "-P", "-c", PARENT, sys.executable, "-P", "-c", CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.ppid() == parent.pid
        parent.send_signal(signal.SIGKILL)
        assert parent.wait() == -signal.SIGKILL
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_an_orphan_leaves_at_once() -> None:
    program = "from purvey.ipc.lifetime import die_with_parent as d; d(1); print('stayed')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
