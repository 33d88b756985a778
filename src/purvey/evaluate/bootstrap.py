"""Percentile bootstrap over rows (Efron 1979): how much would the number move on other rows?

Resampling rows with replacement is, for a metric of counted outcomes, a multinomial draw of
the counts; that is what `outcome_interval` does, and why it is fast.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from purvey.evaluate.metrics import Floats, Ints, Outcomes

_CHUNK_CELLS = 4_000_000
"""Random numbers drawn at a time, to bound memory."""


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are made: `num_samples` draws, two-sided `confidence` in (0.5, 1), `seed`."""

    num_samples: int = 1_000
    confidence: float = 0.95
    seed: int = 0

    def bounds(self, values_S: Floats) -> tuple[float, float]:
        """Return the percentile interval of resampled values; NaN counts as none."""
        tail = (1 - self.confidence) / 2
        low, high = np.nanquantile(values_S, [tail, 1 - tail])
        return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its interval over `num_rows` rows."""

    value: float
    low: float
    high: float
    num_rows: int
    confidence: float

    def as_json(self) -> dict[str, float | int]:
        """Return the shape that reports carry."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "num_rows": self.num_rows,
            "confidence": self.confidence,
        }


def outcome_interval(
    outcomes: Outcomes, metric: Callable[[Outcomes, Ints], Floats], how: Bootstrap
) -> Estimate:
    """Estimate a metric of counted outcomes, at least one row."""
    counts_K = outcomes.counts
    num_rows = outcomes.num_rows
    generator = np.random.default_rng(how.seed)
    width = max(outcomes.num_labels, len(counts_K))
    chunk = max(1, _CHUNK_CELLS // width)
    drawn = [
        metric(outcomes, generator.multinomial(num_rows, counts_K / num_rows, size=size))
        for size in _chunks(how.num_samples, chunk)
    ]
    low, high = how.bounds(np.concatenate(drawn))
    value = float(metric(outcomes, counts_K[None, :])[0])
    return _estimate(value, low, high, num_rows, how)


def row_interval(
    num_rows: int, statistic: Callable[[NDArray[np.int64]], Floats], how: Bootstrap
) -> Estimate:
    """Estimate any statistic of rows.

    Args:
        num_rows: Rows there are, at least one.
        statistic: Takes row numbers `S x num_rows` and returns one value per line of them.
        how: Samples, confidence, seed.
    """
    generator = np.random.default_rng(how.seed)
    chunk = max(1, _CHUNK_CELLS // num_rows)
    drawn = [
        statistic(generator.integers(0, num_rows, size=(size, num_rows)))
        for size in _chunks(how.num_samples, chunk)
    ]
    low, high = how.bounds(np.concatenate(drawn))
    value = float(statistic(np.arange(num_rows)[None, :])[0])
    return _estimate(value, low, high, num_rows, how)


def _estimate(value: float, low: float, high: float, num_rows: int, how: Bootstrap) -> Estimate:
    return Estimate(value=value, low=low, high=high, num_rows=num_rows, confidence=how.confidence)


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
