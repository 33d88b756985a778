"""What an engine process holds, whatever the model: questions in, answers out."""

from collections.abc import Callable
from typing import Protocol

from purvey.contracts.engine import Answer, EngineStats, ModelLoaded, Question, Refused
from purvey.errors import PurveyError

Send = Callable[[Answer], None]
CheckCancelled = Callable[[], None]
"""Raises `concurrent.futures.CancelledError` once the request is not wanted any more."""


class Resident(Protocol):
    """A loaded model with its queues. `run` is one thread; the others may be called from any."""

    @property
    def loaded(self) -> ModelLoaded:
        """What was loaded."""
        ...

    def answer(self, question: Question, send: Send, check: CheckCancelled) -> None:
        """Answer at once, or hand the question to the loop, which answers later.

        Raises:
            PurveyError: The question is refused; nothing was sent and nothing is held.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Forget a request within one step; unknown ids are left alone."""
        ...

    def run(self) -> None:
        """Compute until drained or stopped."""
        ...

    def drain(self) -> None:
        """Accept nothing more and finish what was accepted."""
        ...

    def stop(self) -> None:
        """Accept nothing more and cancel what was accepted."""
        ...

    def stats(self) -> EngineStats:
        """Count what is held."""
        ...


def refusal(request_id: str, error: PurveyError) -> Refused:
    """Say that a request ended in an error."""
    return Refused(request_id=request_id, code=error.code, message=error.text, param=error.param)
