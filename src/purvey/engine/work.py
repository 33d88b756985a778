"""What the loop drives: a sequence and what becomes of its logits.

Shape letters, this file only:
    R = positions   V = vocabulary
"""

from typing import Literal, Protocol

from purvey.engine.logits import SpanLogits
from purvey.engine.request import Sequence
from purvey.errors import PurveyError

EndReason = Literal["stop", "length"]


class Work(Protocol):
    """A request in the loop. All methods are called by the loop's thread, never at once.

    Exactly one of `end`, `fail` and `cancel` is called, last, when its blocks are free again.
    """

    @property
    def sequence(self) -> Sequence:
        """Its tokens and blocks; `take` appends, the loop does the rest."""
        ...

    def admit(self) -> None:
        """Learn that blocks are reserved and computing begins."""
        ...

    def take(self, positions: range, logits: SpanLogits) -> EndReason | None:
        """Use the logits of some positions (of none, while a prompt is read).

        Returns:
            Why it is over, or None to go on.
        """
        ...

    def end(self, reason: EndReason) -> None:
        """Learn that it is over."""
        ...

    def fail(self, error: PurveyError) -> None:
        """Learn that it ended in an error."""
        ...

    def cancel(self) -> None:
        """Learn that nobody wants it any more."""
        ...
