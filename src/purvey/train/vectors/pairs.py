"""Rows whose texts belong together, and which texts a row is told apart from.

Shape letters, this file only:
    B = rows of a batch   C = texts that they choose among
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purvey.models.encoder.framing import Framed

Ints = NDArray[np.int64]
_FEW = 16


class Belonging(Protocol):
    """Which texts belong together, by their numbers."""

    def partners(self, row: int) -> Ints:
        """Return which texts a row is trained to find, at least one."""
        ...

    def relevant(self, row: int) -> Ints:
        """Return all texts that are right for a row."""
        ...

    def own(self, row: int) -> int | None:
        """Return which text is the row itself, if it is among those that may be found."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Rows of a split.

    Args:
        asked: N texts that are searched with.
        found: M different texts that may be found.
        belonging: Which belong together.
        negatives: For each row the number of a text that is near and yet wrong; empty without.
    """

    asked: Sequence[Framed]
    found: Sequence[Framed]
    belonging: Belonging
    negatives: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.asked)


def columns_of(pairs: Pairs, rows: Sequence[int], chosen: Callable[[Ints], int]) -> list[int]:
    """Return the numbers of the texts that rows choose among: their partners, then negatives.

    Args:
        pairs: Where the rows are from.
        rows: B of them.
        chosen: Picks one of several partners: `drawn` or `first`.
    """
    partners = [chosen(pairs.belonging.partners(row)) for row in rows]
    return partners + [pairs.negatives[row] for row in rows if pairs.negatives]


def drawn(partners: Ints) -> int:
    """Draw from torch's default generator, which a step seeds."""
    if len(partners) == 1:
        return int(partners[0])
    return int(partners[int(torch.randint(len(partners), ()))])


def first(partners: Ints) -> int:
    """Return the first."""
    return int(partners[0])


def excluded(pairs: Pairs, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Return `excluded_BC`: what belongs to a row, and the row itself, but for its own column."""
    return excluded_among(pairs.belonging, rows, columns)


def excluded_among(belonging: Belonging, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """As `excluded`, of rows by what belongs together alone."""
    columns_C = np.asarray(columns)
    excluded_BC = np.zeros((len(rows), len(columns)), dtype=bool)
    for place, row in enumerate(rows):
        excluded_BC[place] = _are_among(columns_C, belonging.relevant(row))
        if (own := belonging.own(row)) is not None:
            excluded_BC[place] |= columns_C == own
        excluded_BC[place, place] = False
    return torch.from_numpy(excluded_BC)


def _are_among(columns_C: Ints, right: Ints) -> NDArray[np.bool_]:
    """Tell which columns are right; by comparing where these are few, which is faster."""
    if len(right) > _FEW:
        return np.isin(columns_C, right)
    found_C: NDArray[np.bool_] = (columns_C[:, None] == right).any(axis=1)
    return found_C
