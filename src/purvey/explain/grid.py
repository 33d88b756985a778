"""An image as a grid of patches, coarse to fine, and the image with patches filled in.

Shape letters, this file:
    M = masks   A = atoms (finest patches)   H, W, C = rows, columns, channels
"""

from collections.abc import Iterator
from itertools import count, pairwise

import numpy as np
from numpy.typing import NDArray

from purvey.explain.parts import Part
from purvey.explain.subject import Masks

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]

COARSE_CELLS = 8
"""Cells along each side of the coarsest grid, at most."""
FINE_CELLS = 16
"""Cells along each side of the finest grid, at most."""
SMALLEST_PATCH = 2
"""Pixels of a patch's side, at least: the absence of a smaller one says little to a network,
because its neighbours say the same."""


class PatchGrid:
    """Patches of one image. Boxes are in pixels of the image; atoms are the finest patches.

    Args:
        height: Rows in pixels.
        width: Columns in pixels.
        min_side: Pixels of the shortest side a patch may have.
    """

    def __init__(self, *, height: int, width: int, min_side: int = SMALLEST_PATCH) -> None:
        self.height, self.width = height, width
        self._min_side = max(min_side, SMALLEST_PATCH)
        self._longest_atom = max(self._min_side, -(-max(height, width) // FINE_CELLS))
        self._numbers = count()
        self._atom_boxes: list[Box] = []
        self.roots = tuple(
            self._part((left, top, right, bottom))
            for top, bottom in self._edges(height)
            for left, right in self._edges(width)
        )

    @property
    def num_atoms(self) -> int:
        """Number of the finest patches."""
        return len(self._atom_boxes)

    def filled(self, pixels_HWC: Pixels, keep_MA: Masks) -> Iterator[Pixels]:
        """Yield the image once per mask, patches that are not kept in the image's mean colour."""
        mean_C = np.rint(pixels_HWC.reshape(-1, pixels_HWC.shape[-1]).mean(axis=0))
        for keep_A in keep_MA:
            changed_HWC = pixels_HWC.copy()
            for atom in np.flatnonzero(~keep_A):
                left, top, right, bottom = self._atom_boxes[atom]
                changed_HWC[top:bottom, left:right] = mean_C.astype(np.uint8)
            yield changed_HWC

    def _edges(self, length: int) -> list[tuple[int, int]]:
        cells = max(1, min(COARSE_CELLS, length // self._min_side))
        cuts = np.rint(np.linspace(0, length, cells + 1)).astype(int).tolist()
        return list(pairwise(cuts))

    def _part(self, box: Box) -> Part:
        pieces = self._quarters(box)
        if not pieces:
            self._atom_boxes.append(box)
            return Part(kind="patch", atoms=(next(self._numbers),), box=box)
        children = tuple(self._part(piece) for piece in pieces)
        atoms = tuple(atom for child in children for atom in child.atoms)
        return Part(kind="patch", atoms=atoms, box=box, children=children)

    def _quarters(self, box: Box) -> list[Box]:
        """Return the box halved along each side that is long enough; nothing if none is."""
        left, top, right, bottom = box
        rows, columns = self._halves(top, bottom), self._halves(left, right)
        if len(rows) == len(columns) == 1:
            return []
        return [(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns]

    def _halves(self, low: int, high: int) -> list[tuple[int, int]]:
        side = high - low
        if side <= self._longest_atom or side < 2 * self._min_side:
            return [(low, high)]
        middle = (low + high) // 2
        return [(low, middle), (middle, high)]
