"""Bars: how numbers are spread, and how many rows each label has."""

from collections.abc import Mapping, Sequence
from typing import Any

from purvey.server.reporting.axes import Axis, Frame, axis_over, shown
from purvey.server.reporting.markup import Markup, element, table
from purvey.server.reporting.values import number
from purvey.server.reporting.wording import percent

_MOST_LABELS = 60
_BAR_PIXELS = 160.0


def spread(title: str, unit: str, found: Mapping[str, Any]) -> Markup | None:
    """Draw a histogram; nothing where there is none that can be drawn."""
    told = found.get("histogram") or {}
    edges = [number(edge) for edge in told.get("edges", ())]
    counts = [number(count) for count in told.get("counts", ())]
    bars = [
        (low, high, count)
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
        if low is not None and high is not None and count is not None and low < high
    ]
    if not bars:
        return None
    frame = Frame(
        across=axis_over(unit, [bars[0][0], bars[-1][1]]),
        up=Axis(name="rows", low=0.0, high=max(count for *_, count in bars) * 1.05 or 1.0),
        height=220.0,
    )
    summary = ", ".join(
        f"{name} {shown(value)}"
        for name in ("min", "median", "mean", "max")
        if (value := number(found.get(name))) is not None
    )
    return element(
        "figure",
        element("figcaption", f"{title}: {summary}"),
        frame.drawn(title, *(_bar(frame, *bar) for bar in bars)),
    )


def _bar(frame: Frame, low: float, high: float, count: float) -> Markup:
    left, right, top = frame.x(low), frame.x(high), frame.y(count)
    return element(
        "rect",
        element("title", f"{shown(low)} to {shown(high)}: {shown(count)} rows"),
        class_="cell",
        x=left,
        y=top,
        width=max(right - left - 1, 0.5),
        height=frame.y(0.0) - top,
    )


def balance(found: Mapping[str, Mapping[str, int]]) -> Markup | None:
    """Return a table of the rows of each label by split, the most frequent label first."""
    totals: dict[str, int] = {}
    for counts in found.values():
        for label, count in counts.items():
            totals[label] = totals.get(label, 0) + count
    if not totals:
        return None
    ordered = sorted(totals, key=lambda label: (-totals[label], label))
    rows = [_label(label, totals, found) for label in ordered[:_MOST_LABELS]]
    left_out = len(ordered) - len(rows)
    caption = "Rows of each label" + (f"; {left_out} rarer ones are left out" if left_out else "")
    return table(caption, ("label", "rows", "share", "", *found), rows)


def _label(
    label: str, totals: Mapping[str, int], found: Mapping[str, Mapping[str, int]]
) -> tuple[str | None, ...]:
    count, everything = totals[label], sum(totals.values())
    width = _BAR_PIXELS * count / max(totals.values())
    bar = element(
        "svg",
        element("rect", class_="cell", x=0.0, y=3.0, width=width, height=12.0),
        viewBox=f"0 0 {_BAR_PIXELS:g} 18",
        class_="bar",
        role="img",
        aria_label=f"{count} rows",
    )
    by_split: Sequence[str] = [str(counts.get(label, 0)) for counts in found.values()]
    return (label, str(count), percent(count / everything), bar, *by_split)
