"""The logits of one span's wanted rows, wherever they were computed.

Shape letters, this file only:
    R = rows   V = vocabulary
"""

import math
from typing import Protocol

from torch import Tensor

_PIECE, _LEAST_PIECE = 256, 32


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
        best = first_best(last_V)
        return best, float(last_V[best])


def first_best(logits_V: Tensor) -> int:
    """Return the place of the largest, the first among equals; of what is no number, if any is.

    The largest of each piece is found with vectors, its place without.
    """
    width = math.gcd(len(logits_V), _PIECE)
    if width < _LEAST_PIECE:
        return int(logits_V.argmax())
    pieces = logits_V.reshape(-1, width)
    piece = int(pieces.amax(1).argmax())
    return piece * width + int(pieces[piece].argmax())
