"""The few parse processes of one owner: kept warm, replaced when worn, dead or late."""

import atexit
import logging
import threading
from collections.abc import Sequence

from purvey.contracts.clock import Clock, SystemClock
from purvey.contracts.parse import FromParser, OutOfMemory, ParserReady, ToParser
from purvey.errors import InternalError, WorkerCrashedError
from purvey.ipc.child import worker_command
from purvey.ipc.disposable import Disposable

logger = logging.getLogger(__name__)

SIZE = 2
"""Processes of one owner at most; the second starts when somebody has to wait for the first."""
USES = 4_096
"""Questions after which a process is replaced."""
START_TIMEOUT_S = 60.0
_RETRY_S = 0.5
_CLOCK = SystemClock()
Process = Disposable[FromParser]


class ParseFailedError(Exception):
    """A question ended its process; the message continues "the image ..."."""


class ParsePool:
    """Parse processes, started when they are first needed. Safe in any thread.

    Invariant: `_num_alive` counts the processes that start, are idle or answer; at most `size`.

    Args:
        size: Processes at most.
        uses: Questions that one process answers.
        command: What to run instead of `python -m purvey.worker parse`.
        start_timeout_s: How long a process may take to come up, and a caller waits for one.
        clock: Where time comes from.
    """

    def __init__(
        self,
        *,
        size: int = SIZE,
        uses: int = USES,
        command: Sequence[str] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        clock: Clock = _CLOCK,
    ) -> None:
        self._size, self._uses, self._clock = size, uses, clock
        self._command = command or worker_command("parse")
        self._start_timeout_s = start_timeout_s
        self._changed = threading.Condition()
        self._idle: list[Process] = []
        self._num_alive = self._num_waiting = 0
        self._keeper: threading.Thread | None = None
        self._is_closed = self._has_failed = False

    def warm(self) -> None:
        """Have a process started, without waiting for it."""
        with self._changed:
            self._keep()

    def ask(self, question: ToParser, *, timeout_s: float) -> FromParser:
        """Return the answer of a process that has all of `timeout_s` for it.

        A process that dies, or that has no memory left, is replaced and the question asked
        once more, in the time that is left: it may have died of what came before.

        Raises:
            ParseFailedError: It took too long, too much memory, or ended its process.
            WorkerCrashedError: No process could be started.
        """
        reason = ""
        left_s = timeout_s
        for _ in range(2):
            process = self._take()
            began = self._clock.monotonic()
            try:
                answer = process.ask(question, deadline=began + left_s)
            except TimeoutError:
                self._discard(process, "deadline")
                raise ParseFailedError(f"took longer than {timeout_s:g} s") from None
            except (OSError, InternalError):
                self._discard(process, "death")
                reason = "ended the process that parsed it"
            except BaseException:
                self._discard(process, "interruption")
                raise
            else:
                if not isinstance(answer, OutOfMemory):
                    self._give_back(process)
                    return answer
                self._discard(process, "memory")
                reason = "needs more memory than it may have"
            left_s -= self._clock.monotonic() - began
        raise ParseFailedError(reason)

    def close(self) -> None:
        """End every process; whoever still asks one gets `WorkerCrashedError`."""
        with self._changed:
            self._is_closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for process in idle:
            process.end()

    def _take(self) -> Process:
        with self._changed:
            self._num_waiting += 1
            self._keep()
            try:
                has_one = self._changed.wait_for(
                    lambda: self._idle or self._is_closed, timeout=self._start_timeout_s
                )
                if not has_one or self._is_closed:
                    raise WorkerCrashedError("no parse process could be started.")
                return self._idle.pop()
            finally:
                self._num_waiting -= 1

    def _give_back(self, process: Process) -> None:
        with self._changed:
            if process.num_answers <= self._uses and not self._is_closed:
                self._idle.append(process)
                self._changed.notify_all()
                return
        self._end(process)

    def _discard(self, process: Process, reason: str) -> None:
        logger.warning("parse.replaced", extra={"pid": process.pid, "reason": reason})
        self._end(process)

    def _end(self, process: Process) -> None:
        process.end()
        with self._changed:
            self._num_alive -= 1
            self._changed.notify_all()

    def _keep(self) -> None:
        """Start the thread that starts processes: they end with the thread that started them."""
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._run, name="parse-keeper", daemon=True)
            self._keeper.start()
            atexit.register(self.close)
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._is_one_wanted())
                if self._is_closed:
                    return
                self._num_alive += 1
            process = self._started()
            self._has_failed = process is None
            if process is not None:
                self._give_back(process)
                continue
            with self._changed:
                self._num_alive -= 1
                self._changed.wait_for(lambda: self._is_closed, timeout=_RETRY_S)

    def _is_one_wanted(self) -> bool:
        if self._num_alive == 0:
            return not self._has_failed or self._num_waiting > 0
        return self._num_alive < self._size and self._num_waiting > len(self._idle)

    def _started(self) -> Process | None:
        try:
            process = Process(self._command, incoming=FromParser, clock=self._clock)
        except WorkerCrashedError:
            logger.exception("parse.not_started")
            return None
        try:
            first = process.receive(deadline=self._clock.monotonic() + self._start_timeout_s)
        except (OSError, InternalError):
            first = None
        if isinstance(first, ParserReady):
            return process
        process.end()
        logger.error("parse.not_started", extra={"pid": process.pid})
        return None
