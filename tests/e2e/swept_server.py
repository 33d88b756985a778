"""A server in miniature, to be killed in the middle of a sweep: the search is a real process.

Run as `python swept_server.py FOLDER SPACE_JSON`; prints the sweep's id, then a line for each trial
that ends. A trial is one formula, and some of them die at their first attempt.
"""

import asyncio
import json
import math
import sys
from pathlib import Path

from purvey.contracts.jobs import TERMINAL, JobEvent, JobSpec, ModelTrained
from purvey.jobs.launcher import JobWorker, LocalJobLauncher
from purvey.testing.scripted_jobs import Conversation, ScriptedJobLauncher
from purvey.testing.workshop import Workshop

OPTIMUM = 0.01
NUM_EVALUATIONS = 4


def worth(rate: float) -> float:
    """Best at `OPTIMUM`, worse by a fifth for each factor of ten from there."""
    return 1 - abs(math.log10(rate / OPTIMUM)) / 5


async def trial(worker: Conversation) -> int:
    rate: float = worker.spec.recipe["optimizer"]["learning_rate"]
    for step in range(1, NUM_EVALUATIONS + 1):
        value = worth(rate) * step / NUM_EVALUATIONS
        data = {"step": step, "macro_f1": value, "valid_loss": 1 - value}
        worker.say(JobEvent(kind="metrics", message=f"Step {step}", data=data))
        await asyncio.sleep(0.02)
        if worker.spec.fence == 1 and int(1e9 * rate) % 3 == 0:
            return -9
    worker.write("weights", str(rate).encode())
    measured = {"macro_f1": worth(rate), "valid_loss": 1 - worth(rate)}
    worker.say(ModelTrained(trained_rows=1, validation=measured))
    return 0


class Launcher:
    """Starts the real worker for a sweep, and a script for a trial."""

    def __init__(self) -> None:
        self._searches, self._trials = LocalJobLauncher(), ScriptedJobLauncher(trial)

    async def launch(self, spec: JobSpec) -> JobWorker:
        if spec.kind == "sweep":
            return await self._searches.launch(spec)
        return await self._trials.launch(spec)


async def main() -> None:
    async with Workshop(Path(sys.argv[1]), Launcher()) as workshop:
        made = await workshop.sweep(space=json.loads(sys.argv[2]), max_trials=12, pruner="none")
        _say(made.id)
        async for event in workshop.service.follow(made.project_id, made.id):
            if event.type == "metrics":
                _say(f"{event.data['trial']} is {event.data['state']}")
        await workshop.until(made.id, *TERMINAL)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
