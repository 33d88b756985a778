"""A server in miniature, to be killed: runs one job until somebody stops it.

Run as `python killed_server.py FOLDER WORKER_SCRIPT`; prints the job's id once it works.
"""

import asyncio
import sys
from pathlib import Path

from purvey.jobs.launcher import LocalJobLauncher
from purvey.testing.workshop import Workshop


async def main() -> None:
    launcher = LocalJobLauncher(command=(sys.executable, "-P", sys.argv[2]))
    async with Workshop(Path(sys.argv[1]), launcher) as workshop:
        job = await workshop.submit(acts=["work_until_stopped", "succeed"])
        await workshop.until_event(job.id, "Working.")
        sys.stdout.write(job.id + "\n")
        sys.stdout.flush()
        await workshop.until(job.id, "succeeded")


asyncio.run(main())
