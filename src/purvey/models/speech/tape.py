"""A long recording as windows that begin where the one before was understood to its end.

Shape letters, this file only:
    N = samples
"""

from collections.abc import Iterator

import torch
from torch import Tensor


class Tape:
    """Samples of a recording, of which little more than a window and a piece is held.

    Args:
        found: Pieces of the recording.
    """

    def __init__(self, found: Iterator[Tensor]) -> None:
        self._found, self._waiting_N = found, torch.empty(0)
        self.num_passed = 0

    def window(self, size: int) -> Tensor:
        """Return the next `samples_N`, `size` of them or all that are left."""
        while len(self._waiting_N) < size:
            piece_N = next(self._found, None)
            if piece_N is None:
                break
            self._waiting_N = torch.cat((self._waiting_N, piece_N))
        return self._waiting_N[:size]

    def skip(self, count: int) -> None:
        """Leave so many samples behind."""
        self._waiting_N = self._waiting_N[count:]
        self.num_passed += count
