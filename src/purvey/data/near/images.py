"""Images that show the same picture at another size, compression or brightness.

A difference hash finds candidates: which of 8 x 8 cells are brighter than the cell to the right of
them, and than the one below, where they differ by more than noise. Candidates are near when the
means of 16 x 16 cells differ, on the average, by little of the picture's own contrast. Images below
`LEAST_SIDE` pixels have too little to tell pictures apart by and are never called near.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from purvey.contracts.limits import LIMITS
from purvey.contracts.parse import DecodeImage
from purvey.data.near.clusters import clusters
from purvey.data.pictures import picture_size
from purvey.parse.images import decode

LEAST_SIDE = 32
"""Pixels of the shorter side of an image that is compared."""
_SIDE, _BANDS = 16, 8
_LEAST_SHARED = 2
"""Bands that two near pictures have in common: one alone is often chance."""
_FIRST_OWN = 2**14
_NOISE = 2.0
"""Levels of 255 that two cells may differ by and count as equally bright."""
_SHARE, _FLOOR = 0.1, 0.25
"""Of the contrast, and levels: how much two near images may differ by, on the average."""


def near_images(images: Sequence[bytes]) -> list[int]:
    """Return for each image the number of the first one of its cluster."""
    large = [n for n, data in enumerate(images) if min(picture_size(data)) >= LEAST_SIDE]
    cells_NP = np.empty((len(large), 3 * _SIDE * _SIDE), dtype=np.uint8)
    for place, number in enumerate(large):
        question = DecodeImage(
            data=images[number],
            width=_SIDE,
            height=_SIDE,
            channels=3,
            max_pixels=LIMITS.image_pixels,
        )
        cells_NP[place] = np.frombuffer(decode(question).pixels, dtype=np.uint8)
    bands_NB = np.empty((len(large), _BANDS), dtype=np.uint32)
    for place, cells_P in enumerate(cells_NP):
        bands_NB[place] = _bands(cells_P)
    flat_NB = bands_NB == 0  # of such a band any two pictures may have one
    bands_NB[flat_NB] = _FIRST_OWN + np.arange(np.count_nonzero(flat_NB), dtype=np.uint32)
    contrast_N = [float(np.abs(cells_P - cells_P.mean()).mean()) for cells_P in cells_NP]

    def is_near(a: int, b: int) -> bool:
        if np.count_nonzero(bands_NB[a] == bands_NB[b]) < _LEAST_SHARED:
            return False
        difference = np.abs(cells_NP[a].astype(np.int16) - cells_NP[b]).mean()
        return float(difference) <= _SHARE * min(contrast_N[a], contrast_N[b]) + _FLOOR

    found = list(range(len(images)))
    for place, first in enumerate(clusters(bands_NB, is_near)):
        found[large[place]] = large[first]
    return found


def _bands(cells_P: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return 8 bands of 14 bits: each is one row of cells, to the right and downwards."""
    pixels = cells_P.reshape(_SIDE, _SIDE, 3).astype(np.float32).mean(axis=2)
    half = _SIDE // 2
    means = pixels.reshape(half, 2, half, 2).mean(axis=(1, 3))
    to_right = np.diff(means, axis=1) > _NOISE
    downwards = np.diff(means, axis=0).T > _NOISE
    bits = np.concatenate([to_right, downwards], axis=1)
    powers = 2 ** np.arange(bits.shape[1], dtype=np.uint32)
    return bits.astype(np.uint32) @ powers
