"""The first rank's side: start the others, connect with them, and let none outlive the run."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from purvey.contracts.jobs import FromRank, JobFailed, JobSpec, RankReady, RankSpec
from purvey.errors import WorkerCrashedError
from purvey.ipc.child import worker_command
from purvey.ipc.link import Link
from purvey.ipc.processors import run_on
from purvey.train.parallel.group import Group, connected
from purvey.worker.job_link import RankFailed

_LAST_WORD_S = 5.0
"""How long a rank that broke a connection may take to end; its death is what broke it."""
_LOOK_S = 1.0


@contextlib.contextmanager
def started(spec: JobSpec, *, size: int) -> Iterator[Group | None]:
    """Start the other ranks of a run and connect with them, until the block is left.

    The kernel ends them with this process, whatever ends it.

    Args:
        spec: The job, with the threads of one rank.
        size: Ranks, this one included.

    Yields:
        The ranks; None for a single one.

    Raises:
        RankFailed: A rank broke or was killed.
    """
    if size == 1:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="ranks-", dir=spec.work_dir))
    store, peers = folder / "store", list[_Peer]()
    try:
        for rank in range(1, size):
            peers.append(_Peer(RankSpec(job=spec, rank=rank, size=size, store=str(store))))
        for peer in peers:
            peer.await_ready()
        with connected(store, rank=0, size=size) as group, _leading(peers):
            yield group
    except RuntimeError as error:  # what a broken connection is raised as
        causes = [failure for peer in peers if (failure := peer.why_lost())]
        if not causes:
            raise  # it is our own, or a bug that the log tells of
        raise RankFailed(causes[0]) from error
    finally:
        for peer in peers:
            peer.end()
        shutil.rmtree(folder, ignore_errors=True)


class _Peer:
    """Another rank's process, in the group of this one."""

    def __init__(self, spec: RankSpec) -> None:
        self._name = f"rank {spec.rank} of {spec.size}"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            given = ("--fd", str(theirs.fileno()), "--parent", str(os.getpid()))
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter and arguments)
                [*worker_command("rank"), *given],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._link: Link[FromRank] = Link(ours.detach(), FromRank)
        with contextlib.suppress(OSError):  # it is gone already, which `await_ready` tells
            self._link.send(spec)

    @property
    def pid(self) -> int:
        """The process; it is not reaped before `why_lost` or `end`."""
        return self._process.pid

    def await_ready(self) -> None:
        """Wait until it is about to connect.

        Raises:
            RankFailed: It has ended instead.
        """
        message = self._link.receive()
        if not isinstance(message, RankReady):
            raise RankFailed(message or self._lost(self._process.wait()))

    def why_lost(self) -> JobFailed | None:
        """Return what it says that it broke with, or that it was killed; None if neither."""
        try:
            status = self._process.wait(timeout=_LAST_WORD_S)
        except subprocess.TimeoutExpired:
            return None
        message = self._link.receive()
        if isinstance(message, JobFailed):
            return message
        return self._lost(status) if status < 0 else None

    def end(self) -> None:
        """Kill it if it still runs."""
        self._process.kill()
        self._process.wait()
        self._link.close()

    def _lost(self, status: int) -> JobFailed:
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return JobFailed(
            code=WorkerCrashedError.code,
            message=f"{self._name} ended by {how}.",
            is_transient=True,
        )


@contextlib.contextmanager
def _leading(peers: Sequence[_Peer]) -> Iterator[None]:
    """Keep the other ranks on the processors that this one is kept on."""
    is_over = threading.Event()

    def lead() -> None:
        known = os.sched_getaffinity(0)
        while not is_over.wait(_LOOK_S):
            allowed = os.sched_getaffinity(0)
            if allowed != known:
                known = allowed
                for peer in peers:
                    with contextlib.suppress(OSError):
                        run_on(peer.pid, allowed)

    thread = threading.Thread(target=lead, name="leading", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
