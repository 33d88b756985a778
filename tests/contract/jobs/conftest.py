"""The subjects of the launcher contract: each plays the acts that a job's recipe names.

`recipe["acts"]` names one act per claim of the job, in order.
"""

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from purvey.contracts.jobs import CheckpointSaved, Heartbeat, JobEvent, JobFailed, JobStopped
from purvey.jobs.launcher import JobLauncher, LocalJobLauncher
from purvey.jobs.run import RunConfig
from purvey.testing import scripted_jobs
from purvey.testing.scripted_jobs import Conversation, Script, ScriptedJobLauncher


async def crash(worker: Conversation) -> int:
    save(worker, step=1)
    return -9


async def quit_early(worker: Conversation) -> int:
    return 7


async def work_until_stopped(worker: Conversation) -> int:
    worker.say(JobEvent(message="Working."))
    reason = await worker.stop_asked()
    if reason != "cancel":
        save(worker, step=5)
    worker.say(JobStopped(reason=reason))
    return 0


async def ignore_stop(worker: Conversation) -> int:
    worker.say(JobEvent(message="Working."))
    while True:
        worker.say(Heartbeat())
        await asyncio.sleep(0.05)


def save(worker: Conversation, *, step: int) -> None:
    folder = Path(worker.spec.work_dir, f"step-{step}")
    folder.mkdir(exist_ok=True)
    (folder / "state").write_bytes(b"state")
    files = {"state": hashlib.sha256(b"state").hexdigest()}
    manifest = json.dumps({"step": step, "files": files}).encode()
    (folder / "manifest.json").write_bytes(manifest)
    digest = hashlib.sha256(manifest).hexdigest()
    worker.say(CheckpointSaved(step=step, folder=str(folder), digest=digest))


ACTS: dict[str, Script] = {
    "succeed": scripted_jobs.succeed,
    "crash": crash,
    "quit_early": quit_early,
    "hang": scripted_jobs.hang,
    "fail": scripted_jobs.fail(
        JobFailed(
            code="invalid_value",
            message="the learning rate is odd.",
            param="recipe.optimizer.learning_rate",
        )
    ),
    "break_down": scripted_jobs.fail(
        JobFailed(code="internal_error", message="the run raised KeyError")
    ),
    "work_until_stopped": work_until_stopped,
    "ignore_stop": ignore_stop,
}


async def play(worker: Conversation) -> int:
    return await ACTS[worker.spec.recipe["acts"][worker.spec.fence - 1]](worker)


def local() -> JobLauncher:
    script = Path(__file__).with_name("acting_worker.py")
    return LocalJobLauncher(command=(sys.executable, "-P", str(script)))


SUBJECTS: dict[str, Callable[[], JobLauncher]] = {
    "scripted": lambda: ScriptedJobLauncher(play),
    "local": local,
}
# A process that starts on a loaded machine must not be taken for silent.
LEASE_S = {"scripted": 0.3, "local": 3.0}


@pytest.fixture(params=list(SUBJECTS))
def subject(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def launcher(subject: str) -> JobLauncher:
    return SUBJECTS[subject]()


@pytest.fixture
def strict(subject: str) -> RunConfig:
    lease_s = LEASE_S[subject]
    return RunConfig(lease_s=lease_s, heartbeat_s=0.05, stop_grace_s=lease_s / 2)
