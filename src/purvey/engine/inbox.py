"""What other threads ask of the loop: work, within limits, and its end."""

import threading
from collections import deque

from purvey.contracts.limits import LIMITS
from purvey.engine.request import Sequence
from purvey.engine.work import Work
from purvey.errors import CapacityError, ShuttingDownError

MAX_BACKGROUND = 4 * LIMITS.explanation_forwards
MAX_BACKGROUND_TOKENS = 4 * LIMITS.queued_tokens


class Inbox:
    """Work and cancellations in order of arrival; any thread puts, the loop's thread takes.

    Invariant: `_num_accepted` and `_num_tokens` count, apart for background work, what was put
    and has not left, and the positions it may take; they never exceed their limits.
    """

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._messages: deque[Work | str] = deque()
        self._num_accepted = {False: 0, True: 0}  # by `is_background`
        self._num_tokens = {False: 0, True: 0}
        self._is_draining = self._is_stopped = False

    def __len__(self) -> int:
        """Count the messages that the loop has not taken yet."""
        return len(self._messages)

    @property
    def is_stopped(self) -> bool:
        """Whether the loop is to cancel what it holds and return."""
        return self._is_stopped

    def put(self, work: Work) -> None:
        """Accept work.

        Raises:
            CapacityError: As many requests or tokens are held already as may be.
            ShuttingDownError: The engine drains.
        """
        kind, num_tokens = work.sequence.is_background, work.sequence.max_positions
        most = MAX_BACKGROUND if kind else LIMITS.queued_requests
        most_tokens = MAX_BACKGROUND_TOKENS if kind else LIMITS.queued_tokens
        with self._news:
            if self._is_draining:
                raise ShuttingDownError("the engine is shutting down.")
            if self._num_accepted[kind] >= most:
                raise CapacityError(f"{most} requests are running or waiting already.")
            if self._num_tokens[kind] + num_tokens > most_tokens:
                raise CapacityError(
                    f"requests of {self._num_tokens[kind]} tokens are running or waiting already, "
                    f"this one may take {num_tokens}, and at most {most_tokens} are held."
                )
            self._num_accepted[kind] += 1
            self._num_tokens[kind] += num_tokens
            self._messages.append(work)
            self._news.notify()

    def cancel(self, request_id: str) -> None:
        """Ask to forget work; it is taken after what was put before it."""
        with self._news:
            self._messages.append(request_id)
            self._news.notify()

    def drain(self) -> None:
        """Accept nothing more."""
        with self._news:
            self._is_draining = True
            self._news.notify()

    def stop(self) -> None:
        """Accept nothing more, and tell the loop to give up what it holds."""
        with self._news:
            self._is_draining = self._is_stopped = True
            self._news.notify()

    def leave(self, sequence: Sequence) -> None:
        """Learn that accepted work has ended."""
        with self._news:
            self._num_accepted[sequence.is_background] -= 1
            self._num_tokens[sequence.is_background] -= sequence.max_positions

    def take(self) -> list[Work | str]:
        """Take everything: work, and ids to be forgotten."""
        with self._news:
            taken = list(self._messages)
            self._messages.clear()
            return taken

    def wait(self, *, has_work: bool) -> bool:
        """Wait for something to do; return whether there is, or ever will be."""
        with self._news:
            self._news.wait_for(lambda: has_work or self._messages or self._is_draining)
            return not self._is_stopped and bool(has_work or self._messages)
