"""Histograms count every number once, in bins that are even, whatever the numbers are."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purvey.data.histogram import MOST_BINS, histogram

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(FINITE, min_size=1, max_size=50))
def test_every_number_is_counted_once(numbers: list[float]) -> None:
    found = histogram(numbers)
    assert sum(found["counts"]) == len(numbers)
    assert len(found["edges"]) == len(found["counts"]) + 1 <= MOST_BINS + 1
    assert found["edges"] == sorted(found["edges"])


@pytest.mark.parametrize(
    ("numbers", "edges", "counts"),
    [
        ([3, 5, 5, 6], [3, 4, 5, 6, 7], [1, 0, 2, 1]),
        ([0, 47], [float(2 * n) for n in range(25)], [1, *[0] * 22, 1]),
        ([2.5, 2.5], [2.5, 2.5], [2]),
    ],
)
def test_bins_of_whole_numbers_are_whole(
    numbers: list[float], edges: list[float], counts: list[int]
) -> None:
    assert histogram(numbers) == {"edges": edges, "counts": counts}


def test_an_even_spread_is_even() -> None:
    found = histogram([n / 100 for n in range(2_400)])
    assert all(99 <= count <= 101 for count in found["counts"])
    assert math.isclose(found["edges"][-1], 23.99)
