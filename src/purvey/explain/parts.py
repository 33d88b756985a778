"""Parts of an input: a tree from coarse to fine over its atoms."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from purvey.explain.subject import Masks


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of the input and the finer pieces it consists of.

    Invariant: the children's atoms partition the part's atoms.

    Args:
        kind: `turn`, `sentence`, `word` or `patch`.
        atoms: Indices of the atoms it covers, never empty.
        turn: Index of the message, for conversations.
        char: Start and end in the turn's (or plain) text.
        box: Left, top, right, bottom in pixels.
        children: Finer parts; empty for an atom.
    """

    kind: str
    atoms: tuple[int, ...]
    turn: int | None = None
    char: tuple[int, int] | None = None
    box: tuple[int, int, int, int] | None = None
    children: tuple["Part", ...] = field(default=(), repr=False)


def leaves(parts: Sequence[Part]) -> Iterator[Part]:
    """Yield the finest parts, in order."""
    for part in parts:
        if part.children:
            yield from leaves(part.children)
        else:
            yield part


def unit_masks(parts: Sequence[Part], *, num_atoms: int) -> Masks:
    """Return `member_UA`: which atoms each part covers."""
    member_UA = np.zeros((len(parts), num_atoms), dtype=np.bool_)
    for row, part in enumerate(parts):
        member_UA[row, list(part.atoms)] = True
    return member_UA


def atom_masks(keep_MU: Masks, member_UA: Masks) -> Masks:
    """Return `keep_MA`: an atom is kept when the one unit that covers it is kept."""
    unit_A = member_UA.argmax(axis=0)
    return keep_MU[:, unit_A]
