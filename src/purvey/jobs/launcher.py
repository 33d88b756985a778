"""Starting the worker of one attempt: local processes first, a cluster later."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from purvey.contracts.jobs import FromWorker, JobSpec, StopJob, StopReason
from purvey.contracts.sweep.messages import TrialNews
from purvey.errors import WorkerCrashedError
from purvey.ipc.child import Child, spawn, thread_limits
from purvey.ipc.sharing import UNSHARED, Sharing

_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}
"""Where the ranks of a divided run listen for each other: nowhere that another machine reaches."""


class JobWorker(Protocol):
    """A worker that runs one attempt of one job."""

    def messages(self) -> AsyncIterator[FromWorker]:
        """Yield what the worker says until it ends.

        Raises:
            InternalError: It said something that is no message; it must then be killed.
        """
        ...

    async def stop(self, reason: StopReason) -> None:
        """Ask it to stop at its next safe point; harmless when it has ended."""
        ...

    async def tell(self, news: TrialNews) -> None:
        """Tell a sweep's worker how its trials go; harmless when it has ended."""
        ...

    def kill(self) -> None:
        """End it at once; harmless when it has ended."""
        ...

    async def wait(self) -> int:
        """Wait for its end and return the exit status; negative is a signal."""
        ...


class JobLauncher(Protocol):
    """Starts workers. Implementations pass one contract suite."""

    async def launch(self, spec: JobSpec) -> JobWorker:
        """Start a worker on the spec; cancelled, it leaves no worker behind.

        The caller bounds how long a worker may take to receive it.

        Raises:
            WorkerCrashedError: It could not start, or died at once.
        """
        ...


class LocalJobLauncher:
    """Runs each attempt in a process of this machine.

    Args:
        command: What to run instead of `python -m purvey.worker job`.
        sharing: Says which processors they may use.
    """

    def __init__(
        self, *, command: Sequence[str] | None = None, sharing: Sharing = UNSHARED
    ) -> None:
        self._command, self._sharing = command, sharing

    async def launch(self, spec: JobSpec) -> "LocalJobWorker":
        """Spawn the process in the job's `work_dir` and hand it the spec."""
        child: Child[FromWorker] = await spawn(
            "job",
            incoming=FromWorker,
            env={**thread_limits(spec.num_threads), **_LOOPBACK},
            cwd=Path(spec.work_dir),
            command=self._command,
        )
        self._sharing.add_job(child)
        worker = LocalJobWorker(child)
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(worker.discard)
            await child.send(spec)
            undo.pop_all()
        return worker


class LocalJobWorker:
    """A worker process."""

    def __init__(self, child: Child[FromWorker]) -> None:
        self._child = child

    @property
    def pid(self) -> int:
        """The process."""
        return self._child.pid

    def messages(self) -> AsyncIterator[FromWorker]:
        """Yield what the worker says until it ends."""
        return self._child.messages()

    async def stop(self, reason: StopReason) -> None:
        """Ask it to stop; a worker that is gone shows by the end of its messages."""
        with contextlib.suppress(WorkerCrashedError):
            await self._child.send(StopJob(reason=reason))

    async def tell(self, news: TrialNews) -> None:
        """Tell it of trials; a worker that is gone shows by the end of its messages."""
        with contextlib.suppress(WorkerCrashedError):
            await self._child.send(news)

    def kill(self) -> None:
        """End the process and its group at once."""
        self._child.kill()

    async def wait(self) -> int:
        """Wait for the end of the process, then close the link."""
        status = await self._child.wait()
        self._child.hang_up()
        return status

    async def discard(self) -> None:
        """Kill the process and wait for its end."""
        self.kill()
        await self.wait()
