"""A child that answers one question at a time, for a parent that may wait but not for long."""

import os
import socket
import subprocess
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from purvey.contracts.clock import Clock
from purvey.contracts.wire import FrameReader, pack
from purvey.errors import WorkerCrashedError

_CHUNK_BYTES = 2**18
M = TypeVar("M")


class Disposable(Generic[M]):
    """A process to be thrown away: after an error of any kind `end` it and start another.

    It stays in the process group of its parent, and prints where its parent prints. Must be
    made on the thread that lives as long as the child should: the kernel ends the child with
    it. Afterwards any one thread at a time may use it.

    Args:
        command: What to run; `--fd` and `--parent` follow.
        incoming: The union that every frame from the child must fit.
        clock: What deadlines are read from.

    Raises:
        WorkerCrashedError: The process could not be started.
    """

    def __init__(self, command: Sequence[str], *, incoming: object, clock: Clock) -> None:
        self._clock = clock
        self._reader: FrameReader[M] = FrameReader(incoming)
        self._ready: deque[M] = deque()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                self._process = _start(command, theirs.fileno())
            except OSError as error:
                self._socket.close()
                raise WorkerCrashedError(f"no process could start: {error.strerror}") from error
        self.num_answers = 0

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def ask(self, question: msgspec.Struct, *, deadline: float) -> M:
        """Send one question and return what comes back.

        Args:
            question: The question.
            deadline: Monotonic time by which the answer must be whole.

        Raises:
            TimeoutError: There was no answer by then.
            OSError: The process is gone.
            InternalError: It said something that is no message.
        """
        frame = pack(question)
        self._socket.settimeout(self._left_s(deadline))
        self._socket.sendall(frame)
        return self.receive(deadline=deadline)

    def receive(self, *, deadline: float) -> M:
        """Return the next message; errors as those of `ask`."""
        while not self._ready:
            self._socket.settimeout(self._left_s(deadline))
            chunk = self._socket.recv(_CHUNK_BYTES)
            if not chunk:
                raise ConnectionResetError
            self._ready.extend(self._reader.feed(chunk))
        self.num_answers += 1
        return self._ready.popleft()

    def end(self) -> None:
        """Kill the process and wait for its end; harmless when it has ended."""
        self._process.kill()
        self._process.wait()
        self._socket.close()

    def _left_s(self, deadline: float) -> float:
        left_s = deadline - self._clock.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s


def _start(command: Sequence[str], fd: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 (our own interpreter and arguments)
        [*command, "--fd", str(fd), "--parent", str(os.getpid())],
        env={"PATH": os.defpath, "HOME": "/", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"},
        cwd="/",
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
    )
