"""Values that are near one another, found by what their signatures share, then compared.

Two values become candidates when one band of their signatures is equal, and one cluster when they
are found to be near. Nearness is carried on: a value joins all that are near one of its cluster.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Bands = NDArray[np.unsignedinteger]  # N values, B bands each
_MOST_COMPARED = 8
"""Clusters of one band that a value is compared with: a band that all share must not cost N^2."""


def clusters(bands_NB: Bands, is_near: Callable[[int, int], bool]) -> list[int]:
    """Return for each value the first of its cluster.

    Args:
        bands_NB: Unsigned integers; values with an equal one in one column are candidates.
        is_near: Compares two values by their numbers.
    """
    first = list(range(len(bands_NB)))
    for band in range(bands_NB.shape[1]):
        for run in _runs(bands_NB[:, band]):
            _join(run, first, is_near)
    return [_find(first, value) for value in range(len(first))]


def _runs(band_N: Bands) -> Iterator[list[int]]:
    """Yield the numbers of values that share the band, ascending, where there are two or more."""
    order_N = np.argsort(band_N, kind="stable")
    edges = np.flatnonzero(np.diff(band_N[order_N]) != 0) + 1
    starts, ends = [0, *edges.tolist()], [*edges.tolist(), len(order_N)]
    for start, end in zip(starts, ends, strict=True):
        if end - start > 1:
            yield order_N[start:end].tolist()


def _join(run: list[int], first: list[int], is_near: Callable[[int, int], bool]) -> None:
    heads: list[int] = []
    for value in run:
        own = _find(first, value)
        if any(_find(first, head) == own for head in heads):
            continue
        near = next((head for head in heads if is_near(head, value)), None)
        if near is not None:
            low, high = sorted((_find(first, near), own))
            first[high] = low
        elif len(heads) < _MOST_COMPARED:
            heads.append(value)


def _find(first: list[int], value: int) -> int:
    while first[value] != value:
        first[value] = first[first[value]]
        value = first[value]
    return value
