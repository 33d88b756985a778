"""The logits of one span's wanted rows, wherever they were computed.

Shape letters, this file only:
    R = rows   V = vocabulary
"""

from typing import Protocol

from torch import Tensor


class SpanLogits(Protocol):
    """Logits of consecutive positions; valid until the next step."""

    def __len__(self) -> int:
        """Count the rows."""
        ...

    def rows(self) -> Tensor:
        """Return `logits_RV`, float32 on the CPU."""
        ...

    def best(self) -> tuple[int, float]:
        """Return the last row's best token, the lowest id among equals, and its logit.

        The logit is not finite where the row holds a value that is no number.
        """
        ...


class HostLogits:
    """Logits that are on the CPU.

    Args:
        logits_RV: Float32.
    """

    def __init__(self, logits_RV: Tensor) -> None:
        self._logits_RV = logits_RV

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._logits_RV)

    def rows(self) -> Tensor:
        """Return `logits_RV`."""
        return self._logits_RV

    def best(self) -> tuple[int, float]:
        """Return the last row's best token, the lowest id among equals, and its logit."""
        last_V = self._logits_RV[-1]
        best = last_V.max()
        places = (last_V == best).nonzero()
        return int(places[0]) if len(places) else 0, float(best)
