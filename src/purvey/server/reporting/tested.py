"""The final test: metrics with their intervals, the table by label, and slices of the rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from purvey.server.reporting.axes import shown
from purvey.server.reporting.markup import Markup, element, table
from purvey.server.reporting.values import estimates, number
from purvey.server.reporting.wording import (
    confidence_of,
    interval_of,
    is_share,
    meaning_of,
    title_of,
)

_BAR_WIDTH, _BAR_HEIGHT = 160.0, 18.0


def metrics_table(metrics: Mapping[str, Any]) -> Markup | None:
    """Return every metric with its interval and what it means."""
    found = estimates(metrics)
    if not found:
        return None
    rows: list[tuple[str | None, ...]] = [
        (
            title_of(name),
            shown(float(estimate["value"])),
            interval_of(estimate),
            _bar(estimate) if is_share(name) else None,
            str(estimate.get("num_rows", "-")),
            meaning_of(name),
        )
        for name, estimate in found.items()
    ]
    heads = ("metric", "value", f"{confidence_of(found)} interval", "0 to 1", "rows", "meaning")
    return table("Metrics of the final test", heads, rows)


def labels_table(metrics: Mapping[str, Any]) -> Markup | None:
    """Return how well each label is recognised."""
    labels = metrics.get("labels")
    if not isinstance(labels, Mapping) or not labels:
        return None
    rows: list[tuple[str | None, ...]] = [
        (
            name,
            _shown(found.get("precision")),
            _shown(found.get("recall")),
            _shown(found["f1"].get("value")),
            interval_of(found["f1"]),
            _bar(found["f1"]),
            _shown(found.get("auroc")),
            str(found.get("num_rows", "-")),
        )
        for name, found in labels.items()
    ]
    heads = ("label", "precision", "recall", "F1", "interval of F1", "0 to 1", "AUROC", "rows")
    return table("Each label", heads, rows)


def slices_table(metrics: Mapping[str, Any]) -> Markup | None:
    """Return how well the model does on each part of the test rows."""
    slices: Sequence[Mapping[str, Any]]
    slices = metrics.get("slices") or metrics.get("validation_slices") or ()
    rows: list[tuple[str | None, ...]] = []
    for one in slices:
        for metric, estimate in estimates(one).items():
            rows.append(
                (
                    f"{one['column']}: {one['value']}",
                    title_of(metric),
                    shown(float(estimate["value"])),
                    interval_of(estimate),
                    _bar(estimate) if is_share(metric) else None,
                    str(one.get("num_rows", "-")),
                )
            )
    if not rows:
        return None
    heads = ("rows with", "metric", "value", "interval", "0 to 1", "rows")
    return table("Parts of the test rows", heads, rows)


def _bar(estimate: Mapping[str, Any]) -> Markup:
    """Draw a share from 0 to 1: a dot for the value, a line for the interval."""
    value, middle = number(estimate.get("value")) or 0.0, _BAR_HEIGHT / 2
    low, high = number(estimate.get("low")), number(estimate.get("high"))
    title = f"{shown(value)}, interval {interval_of(estimate)}"
    return element(
        "svg",
        element("title", title),
        element("line", class_="grid", x1=4, x2=_BAR_WIDTH - 4, y1=middle, y2=middle),
        element(
            "line",
            class_="interval",
            x1=_place(value if low is None else low),
            x2=_place(value if high is None else high),
            y1=middle,
            y2=middle,
        ),
        element("circle", class_="line1", cx=_place(value), cy=middle, r=4),
        viewBox=f"0 0 {_BAR_WIDTH:g} {_BAR_HEIGHT:g}",
        class_="bar",
        role="img",
        aria_label=title,
    )


def _place(share: float) -> float:
    return 4 + min(max(share, 0.0), 1.0) * (_BAR_WIDTH - 8)


def _shown(value: object) -> str:
    found = number(value)
    return "-" if found is None else shown(found)
