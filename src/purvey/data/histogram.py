"""How numbers are spread: counts in bins of equal width, as JSON values."""

import math
from collections.abc import Sequence
from typing import TypedDict

MOST_BINS = 24


class Histogram(TypedDict):
    """`counts[i]` numbers lie from `edges[i]` to below `edges[i + 1]`, or at the last edge."""

    edges: list[float]
    counts: list[int]


def histogram(numbers: Sequence[float]) -> Histogram:
    """Count finite numbers, at least one, in at most `MOST_BINS` bins.

    Bins of whole numbers have a whole width, so that none holds more values than its neighbour.
    """
    low, high = float(min(numbers)), float(max(numbers))
    if all(float(number).is_integer() for number in numbers) and high - low < 2**53:
        return _of_whole(numbers, low, high)
    scale = max(abs(low), abs(high))  # differences of scaled numbers cannot overflow
    start, span = low / scale, high / scale - low / scale
    count = MOST_BINS if span > 0 else 1
    counts = [0] * count
    for number in numbers:
        place = int((number / scale - start) / span * count) if span > 0 else 0
        counts[min(place, count - 1)] += 1
    inner = [(start + span * place / count) * scale for place in range(1, count)]
    return {"edges": [low, *(min(max(edge, low), high) for edge in inner), high], "counts": counts}


def _of_whole(numbers: Sequence[float], low: float, high: float) -> Histogram:
    width = math.ceil((high - low + 1) / MOST_BINS)
    count = int((high - low) // width) + 1
    counts = [0] * count
    for number in numbers:
        counts[int((number - low) // width)] += 1
    return {"edges": [low + width * place for place in range(count + 1)], "counts": counts}
