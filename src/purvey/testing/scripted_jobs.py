"""A job launcher whose workers follow a script: the twin of the one that spawns processes.

It passes the same contract suite. A script is a coroutine that receives the worker's side of
the conversation and returns an exit status; the scripts below are the usual ones.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from purvey.contracts.data import DATASET_MANIFEST_NAME, Column, DatasetManifest
from purvey.contracts.estimating.needs import DiskNeed, Estimated, MemoryNeed, TimeNeed
from purvey.contracts.jobs import (
    DatasetBuilt,
    FromWorker,
    Heartbeat,
    JobEvent,
    JobFailed,
    JobSpec,
    JobStopped,
    ModelTrained,
    StopReason,
)
from purvey.contracts.model import MANIFEST_NAME, ModelManifest
from purvey.contracts.sweep.config import SweepConfig
from purvey.contracts.sweep.messages import SweepFinished, Trial, TrialAsked, TrialNews
from purvey.contracts.sweep.space import samples

_KILLED = -9

ESTIMATED = Estimated(
    parameters=1_000,
    trained_parameters=1_000,
    memory=MemoryNeed(
        process_bytes=300 * 2**20,
        data_bytes=2**20,
        weights_bytes=4_000,
        gradients_bytes=4_000,
        optimizer_bytes=8_000,
        copies_bytes=16_000,
        activations_bytes=32_000,
        free_bytes=2**33,
    ),
    disk=DiskNeed(checkpoints_bytes=48_000, model_bytes=4_000, free_bytes=2**36),
    time=TimeNeed(steps=3, low_s=0.1, high_s=0.3, is_measured=True),
)
"""What a worker says of every run that it is to estimate."""


class Conversation:
    """The worker's side: what a script may do."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self._said: asyncio.Queue[FromWorker | None] = asyncio.Queue()
        self._asked: asyncio.Queue[StopReason] = asyncio.Queue()
        self._news: asyncio.Queue[TrialNews] = asyncio.Queue()

    def say(self, message: FromWorker) -> None:
        """Send a message to the supervisor."""
        self._said.put_nowait(message)

    async def stop_asked(self) -> StopReason:
        """Wait until the supervisor asks the worker to stop."""
        return await self._asked.get()

    async def news(self) -> TrialNews:
        """Wait until the supervisor tells of a sweep's trials."""
        return await self._news.get()

    def write(self, name: str, content: bytes) -> None:
        """Put a file into the output folder."""
        Path(self.spec.output_dir, name).write_bytes(content)


Script = Callable[[Conversation], Awaitable[int]]


async def succeed(worker: Conversation) -> int:
    """Report three steps and deliver a small result of the job's kind."""
    worker.say(Heartbeat())
    if worker.spec.kind == "dataset":
        deliver_dataset(worker)
        return 0
    if worker.spec.kind == "estimate":
        worker.say(ESTIMATED)
        return 0
    if worker.spec.kind == "sweep":
        return await search(worker)
    for step in (1, 2, 3):
        data: dict[str, Any] = {  # JSON values
            "step": step,
            "total_steps": 3,
            "train_loss": 1 / step,
            "seconds_left": 3 - step,
        }
        worker.say(JobEvent(kind="metrics", message=f"Step {step}/3", data=data))
    deliver_model(worker)
    return 0


async def search(worker: Conversation) -> int:
    """Try points of the space from the low ends on, one after the other, until asked to stop."""
    config = SweepConfig.model_validate(worker.spec.recipe)
    known: dict[int, Trial] = {}
    stopping = asyncio.ensure_future(worker.stop_asked())
    try:
        while True:
            hearing = asyncio.ensure_future(worker.news())
            await asyncio.wait((stopping, hearing), return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                hearing.cancel()
                worker.say(JobStopped(reason=stopping.result()))
                return 0
            known |= {trial.number: trial for trial in hearing.result().trials}
            if any(trial.state == "running" for trial in known.values()):
                continue
            parameters = next(islice(samples(config.space), len(known), None), None)
            if len(known) == config.max_trials or parameters is None:
                worker.say(SweepFinished(num_trials=len(known)))
                return 0
            worker.say(TrialAsked(number=len(known), parameters=parameters))
    finally:
        stopping.cancel()


async def crash(worker: Conversation) -> int:
    """Die without a word, as by SIGKILL."""
    return _KILLED


async def hang(worker: Conversation) -> int:
    """Say nothing and obey nothing until killed."""
    await asyncio.Event().wait()
    return 0


async def until_stopped(worker: Conversation) -> int:
    """Run until asked to stop, then obey."""
    worker.say(JobEvent(message="Waiting."))
    worker.say(JobStopped(reason=await worker.stop_asked()))
    return 0


def fail(failure: JobFailed) -> Script:
    """Return a script that ends in the failure."""

    async def script(worker: Conversation) -> int:
        worker.say(failure)
        return 0

    return script


def deliver_dataset(worker: Conversation) -> None:
    """Write a dataset folder of one text and one label column, and say so."""
    manifest = DatasetManifest(
        columns=(Column(name="text", kind="text"), Column(name="label", kind="label")),
        labels=("ham", "spam"),
        rows={"train": 8, "validation": 1, "test": 1},
        profile={"rows": 10, "duplicates_removed": 0},
        digest="0" * 64,
        source_sha256=tuple(file.sha256 for file in worker.spec.files),
    )
    rows = [{"text": "hello", "label": "ham"}]
    worker.write("preview.json", msgspec.json.encode({"train": rows}))
    worker.write(DATASET_MANIFEST_NAME, msgspec.json.encode(manifest))
    worker.say(DatasetBuilt(manifest=manifest))


def deliver_model(worker: Conversation) -> None:
    """Write a model folder with a manifest and no weights, and say so."""
    task = worker.spec.recipe.get("task", "text-generation")
    manifest = ModelManifest(
        family="decoder" if task == "text-generation" else "text-ngrams",
        task=task,
        labels=() if task == "text-generation" else ("ham", "spam"),
        report={"accuracy": {"value": 1.0, "low": 0.7, "high": 1.0, "num_rows": 10}},
    )
    worker.write(MANIFEST_NAME, msgspec.json.encode(manifest))
    tokens = 120 if task == "text-generation" else None
    worker.say(
        ModelTrained(
            trained_tokens=tokens,
            trained_rows=30,
            compute_s=1.5,
            report=manifest.report,
            validation={"macro_f1": 1.0, "valid_loss": 0.1},
        )
    )


class ScriptedJobLauncher:
    """Launches scripts instead of processes.

    Args:
        script: What the worker of a job does when no other script waits; `succeed` unless given.

    Attributes:
        estimating: What the worker of an estimate does: it is no job, and takes no job's script.
    """

    def __init__(self, script: Script = succeed) -> None:
        self.script = script
        self.estimating: Script = succeed
        self.launched: list[JobSpec] = []
        self._next: list[Script] = []

    def then(self, *scripts: Script) -> None:
        """Have the next workers follow these scripts, one each, in order."""
        self._next.extend(scripts)

    async def launch(self, spec: JobSpec) -> "ScriptedJobWorker":
        """Start a script on the spec."""
        self.launched.append(spec)
        if spec.kind == "estimate":
            return ScriptedJobWorker(Conversation(spec), self.estimating)
        script = self._next.pop(0) if self._next else self.script
        return ScriptedJobWorker(Conversation(spec), script)


class ScriptedJobWorker:
    """A script that runs; it can be asked to stop, killed and waited for."""

    def __init__(self, worker: Conversation, script: Script) -> None:
        self._worker = worker
        self._running = asyncio.ensure_future(script(worker))
        self._running.add_done_callback(lambda _: worker._said.put_nowait(None))

    async def messages(self) -> AsyncIterator[FromWorker]:
        """Yield what the script says until it ends."""
        while (message := await self._worker._said.get()) is not None:
            yield message

    async def stop(self, reason: StopReason) -> None:
        """Let the script know."""
        self._worker._asked.put_nowait(reason)

    async def tell(self, news: TrialNews) -> None:
        """Let the script know."""
        self._worker._news.put_nowait(news)

    def kill(self) -> None:
        """Cancel the script."""
        self._running.cancel()

    async def wait(self) -> int:
        """Wait for the script's end and return its status."""
        await asyncio.wait([self._running])
        return _KILLED if self._running.cancelled() else self._running.result()
