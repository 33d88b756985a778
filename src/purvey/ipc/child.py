"""The parent's end: spawn a worker process, talk to it, end it.

A child is `python -m purvey.worker MODE --fd N --parent PID` in a process group of its own,
so a Ctrl-C at the terminal reaches the server alone, which then drains. It inherits one
socket, a minimal environment and nothing else.
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec

from purvey.contracts.wire import FrameReader, pack
from purvey.errors import WorkerCrashedError
from purvey.ipc import processors as placing
from purvey.ipc.child_output import forward_output

logger = logging.getLogger(__name__)

Mode = Literal["engine", "job", "parse", "rank"]
M = TypeVar("M")
_CHUNK_BYTES = 2**16
OUTPUT_GRACE_S = 5.0
"""How long what an ended child printed is waited for: a process that left its group may hold
the pipe for ever."""
_SPINS = "1000"
"""Looks of a waiting thread at its barrier, a few microseconds; GNU's OpenMP alone knows it."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def thread_limits(num_threads: int) -> dict[str, str]:
    """Return the environment that holds numeric libraries to `num_threads`.

    Their idle threads spin for microseconds and then sleep. Where another process holds a core,
    a spinning thread waits for one that does not run, a whole slice of the scheduler at each
    barrier; to wake one that sleeps takes longer than most of what a step computes at once.
    Large tensors take huge pages where the kernel has them: a new one is ready five times sooner.
    """
    threads = dict.fromkeys(_THREAD_VARIABLES, str(num_threads))
    waiting = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": _SPINS}
    return {**threads, **waiting, "THP_MEM_ALLOC_ENABLE": "1"}


def worker_command(mode: Mode) -> tuple[str, ...]:
    """Return the command that starts a worker; `spawn` appends the socket and the parent.

    `-P` keeps the working directory off the import path: it holds files of users.
    """
    return (sys.executable, "-P", "-m", "purvey.worker", mode)


async def spawn(
    mode: Mode,
    *,
    incoming: object,
    env: Mapping[str, str],
    cwd: Path,
    command: Sequence[str] | None = None,
) -> "Child[M]":
    """Start a worker process and connect to it.

    Must be called on the thread that lives as long as the child should: the kernel ends the
    child with the thread that spawned it.

    Args:
        mode: Which worker.
        incoming: The union that every frame from the child must fit.
        env: Variables beside the minimal ones; never a secret.
        cwd: Working directory; also the child's HOME, so that no library writes elsewhere.
        command: What to run instead of `worker_command(mode)`; `--fd` and `--parent` follow.

    Raises:
        WorkerCrashedError: The process could not be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        try:
            process = _start(command or worker_command(mode), theirs.fileno(), env, cwd)
        except OSError as error:
            ours.close()
            raise WorkerCrashedError(f"no {mode} process could start: {error.strerror}") from error
    writer: asyncio.StreamWriter | None = None
    try:
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return Child(process, reader, writer, incoming=incoming)
    except BaseException as error:
        _discard(process)  # or it would run with nobody to end it
        (writer or ours).close()
        if isinstance(error, OSError):
            raise WorkerCrashedError(f"no {mode} process could be watched") from error
        raise


def _start(
    command: Sequence[str], fd: int, env: Mapping[str, str], cwd: Path
) -> "subprocess.Popen[bytes]":
    minimal = {"PATH": os.defpath, "HOME": str(cwd), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(  # noqa: S603 (our own interpreter and arguments)
        [*command, "--fd", str(fd), "--parent", str(os.getpid())],
        env={**minimal, **env},
        cwd=cwd,
        pass_fds=(fd,),
        process_group=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _discard(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


class Child(Generic[M]):
    """A running worker process and the link to it.

    One task iterates `messages()` to its end, or calls `hang_up()`; any task may send. The
    process is reaped as soon as it ends, whoever waits, and what is left of its group with it.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        incoming: object,
    ) -> None:
        self.pid = process.pid
        self._process = process
        self._reader, self._writer = reader, writer
        self._frames: FrameReader[M] = FrameReader(incoming)
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._watch_end()
        self._output = asyncio.create_task(forward_output(process), name=f"output-{self.pid}")

    async def send(self, message: msgspec.Struct) -> None:
        """Write one message; wait while the child does not read.

        Raises:
            WorkerCrashedError: The child is gone.
            InternalError: The message exceeds the largest frame.
        """
        frame = pack(message)
        if self._writer.is_closing():  # we have hung up, or read the end of the stream
            raise WorkerCrashedError(f"the worker process {self.pid} is gone")
        try:
            self._writer.write(frame)
            await self._writer.drain()
        except OSError as error:
            raise WorkerCrashedError(f"the worker process {self.pid} is gone") from error

    async def messages(self) -> AsyncIterator[M]:
        """Yield messages as they come, until the child closes its end or dies.

        Raises:
            InternalError: A frame does not fit the union; the child must then be killed.
        """
        while chunk := await self._read():
            for message in self._frames.feed(chunk):
                yield message
        self._writer.close()

    async def wait(self) -> int:
        """Wait for the end and return the exit status; negative is the signal that killed it.

        Frames that were sent before the end can still be read from `messages()`.
        """
        status = await asyncio.shield(self._ended)
        _, unfinished = await asyncio.wait({self._output}, timeout=OUTPUT_GRACE_S)
        for output in unfinished:
            output.cancel()
        return status

    def kill(self) -> None:
        """End the child and its group at once; harmless when it has ended."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask the child to end; harmless when it has ended."""
        self._signal(signal.SIGTERM)

    def hang_up(self) -> None:
        """Close our end of the link: the child reads the end of the stream."""
        self._writer.close()

    def run_on(self, processors: AbstractSet[int]) -> None:
        """Keep all threads of the process on these processors; harmless when it has ended.

        Raises:
            OSError: The kernel refuses.
        """
        if self._process.returncode is None:  # not reaped, so the pid is still the child's
            placing.run_on(self.pid, processors)

    def when_ended(self, call: Callable[[], None]) -> None:
        """Have something called once, when the process has ended."""
        self._ended.add_done_callback(lambda _: call())

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(_CHUNK_BYTES)
        except OSError:  # a reset is how the death of a peer with unread bytes shows
            return b""

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:  # not reaped, so the pid is still the child's
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                logger.debug("worker.gone", extra={"pid": self.pid})

    def _watch_end(self) -> None:
        loop = asyncio.get_running_loop()
        watch = os.pidfd_open(self.pid)

        def reap() -> None:
            loop.remove_reader(watch)
            os.close(watch)
            self._signal(signal.SIGKILL)  # the rest of its group; its own pid is a zombie still
            status = self._process.wait()  # returns at once: the descriptor is readable
            if not self._ended.done():
                self._ended.set_result(status)

        loop.add_reader(watch, reap)
