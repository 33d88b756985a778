"""What a report is made from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from purvey.contracts.records import JobRecord, ModelRecord

_LARGEST = 1e100
"""Numbers beyond it are not drawn: the arithmetic of axes would overflow."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """A run that has succeeded.

    Args:
        job: Its record.
        points: Data of its metrics events, in order.
        model: The model that it made; None where that is not registered, or deleted.
    """

    job: JobRecord
    points: Sequence[Mapping[str, Any]]
    model: ModelRecord | None

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The final test: metrics with intervals, and tables."""
        found: Mapping[str, Any] = (self.job.result or {}).get("report") or {}
        return found

    @property
    def lineage(self) -> Mapping[str, Any]:
        """What the model says of where it came from; empty without a model."""
        found: Mapping[str, Any] = self.model.manifest.get("lineage", {}) if self.model else {}
        return found

    @property
    def kept_step(self) -> float | None:
        """The step whose weights were kept, as far as the events tell."""
        validation = (self.job.result or {}).get("validation") or {}
        steps = (
            number(point.get("step"))
            for point in self.points
            if validation and validation.items() <= point.items()
        )
        return next(steps, None)


def number(value: object) -> float | None:
    """Return a JSON value as a number that can be drawn, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and abs(value) < _LARGEST else None


def estimates(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the metrics that are a number with an interval, by name."""
    return {
        name: found
        for name, found in metrics.items()
        if isinstance(found, Mapping) and number(found.get("value")) is not None
    }
