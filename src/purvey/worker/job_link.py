"""A runner's view of its supervisor: report, save, and learn that it should stop."""

import contextlib
import logging
import os
import queue
import threading
from typing import Any, Literal, NoReturn

from purvey.contracts.estimating.needs import Estimated
from purvey.contracts.jobs import (
    CheckpointSaved,
    DatasetBuilt,
    Heartbeat,
    JobEvent,
    JobFailed,
    JobStopped,
    ModelTrained,
    StopJob,
    StopReason,
    ToWorker,
)
from purvey.contracts.sweep.messages import (
    SweepFinished,
    TrialAsked,
    TrialNews,
    TrialStopped,
)
from purvey.errors import InternalError, WorkerCrashedError
from purvey.ipc.link import Link

logger = logging.getLogger(__name__)

LINK_FAILED_STATUS = 3
"""Exit status of a worker that can no longer understand its supervisor."""
STALLED_STATUS = 4
"""Exit status of a worker whose runner hangs."""
_RANK: dict[StopReason, int] = {"hand_back": 0, "pause": 1, "cancel": 2}


class JobInterrupted(Exception):  # noqa: N818 (obeying is no error)
    """Raised by a runner once it has obeyed `stop_requested`.

    For `pause` and `hand_back` it has written a checkpoint and reported it before.
    """

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class RankFailed(Exception):  # noqa: N818 (the error is another process's)
    """Raised by a runner when another rank of its run broke or was killed."""

    def __init__(self, failure: JobFailed) -> None:
        super().__init__(failure.message)
        self.failure = failure


class JobLink:
    """What a runner may say and see. Every method may be called from any thread.

    Args:
        link: The link to the supervisor; the spec has been read from it.
    """

    def __init__(self, link: Link[ToWorker]) -> None:
        self._link = link
        self._stop: StopReason | None = None
        self._is_over = threading.Event()
        self._beating = threading.Lock()
        self._news: queue.SimpleQueue[TrialNews | None] = queue.SimpleQueue()

    @property
    def stop_requested(self) -> StopReason | None:
        """Why the runner should stop, or None. Poll it at every step."""
        return self._stop

    def event(
        self,
        message: str,
        *,
        level: Literal["info", "warn", "error"] = "info",
        **data: object,
    ) -> None:
        """Tell the owner one line, with no content of training rows in it."""
        self._link.send(JobEvent(level=level, message=message, data=data))

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        """Report numbers, under the names that `contracts.jobs.JobEvent` lists."""
        self._link.send(JobEvent(kind="metrics", message=message, data=data))

    def checkpoint(self, saved: CheckpointSaved) -> None:
        """Report a checkpoint that is complete on disk."""
        self._link.send(saved)

    def request(self, request: TrialAsked | TrialStopped) -> None:
        """Ask for a trial of the sweep, or for the end of one."""
        self._link.send(request)

    def news(self, timeout_s: float | None) -> TrialNews | None:
        """Wait for news of the sweep's trials; None when the time is over, or a stop is asked."""
        try:
            return self._news.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def attend(self, heartbeat_interval_s: float) -> None:
        """Start the threads that send heartbeats and hear requests to stop."""
        self._link.send(Heartbeat())
        for target, arguments in ((self._beat, (heartbeat_interval_s,)), (self._hear, ())):
            threading.Thread(target=target, args=arguments, daemon=True).start()

    def close(
        self,
        last: DatasetBuilt | ModelTrained | SweepFinished | Estimated | JobStopped | JobFailed,
    ) -> None:
        """Stop the heartbeat and say the last word; nothing follows it."""
        with self._beating:
            self._is_over.set()
            self._link.send(last)

    def give_up(self, why: str) -> NoReturn:
        """End the process although its runner does not return; another attempt may succeed."""
        logger.error("job.stalled", extra={"reason": why})
        code = WorkerCrashedError.code
        with contextlib.suppress(OSError):  # the supervisor is gone, and nobody is left to tell
            self.close(JobFailed(code=code, message=why, is_transient=True))
        os._exit(STALLED_STATUS)

    def _beat(self, interval_s: float) -> None:
        while not self._is_over.wait(interval_s):
            with self._beating:
                if self._is_over.is_set():
                    return
                try:
                    self._link.send(Heartbeat())
                except OSError:  # the supervisor is gone, which `_hear` sees too
                    return

    def _hear(self) -> None:
        try:
            while (message := self._link.receive()) is not None:
                if isinstance(message, StopJob):
                    self._ask(message.reason)
                elif isinstance(message, TrialNews):
                    self._news.put(message)
        except InternalError:
            # A worker that is deaf from now on leaves at once, without a last word: its
            # supervisor takes it for lost, and the next attempt goes on from the checkpoint.
            logger.exception("job.link_failed")
            os._exit(LINK_FAILED_STATUS)
        self._ask("cancel")  # nobody is left to work for

    def _ask(self, reason: StopReason) -> None:
        if self._stop is None or _RANK[reason] > _RANK[self._stop]:
            self._stop = reason
            self._news.put(None)  # wakes a sweep that waits
