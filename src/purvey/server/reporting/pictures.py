"""Pictures of a classifier's answers: what is taken for what, and whether 80 % means 80 %."""

from collections.abc import Mapping, Sequence
from typing import Any

from purvey.server.reporting.axes import Axis, Frame, shown
from purvey.server.reporting.markup import Markup, element, joined
from purvey.server.reporting.values import number
from purvey.server.reporting.wording import percent

_MOST_NAMED, _MOST_COUNTED = 30, 16
"""Labels above which the matrix names none beside it, and above which cells show no count."""
_LABEL_CHARS, _LABEL_PIXELS = 16, 116.0
Matrix = Sequence[Sequence[int]]


def confusion_matrix(metrics: Mapping[str, Any]) -> Markup | None:
    """Draw how often rows of each label were given each label, shaded by the share of the row."""
    counts, labels = metrics.get("confusion"), list(metrics.get("labels") or ())
    if not counts or len(counts) != len(labels):
        return None
    size = len(labels)
    side = min(44.0, max(9.0, 440.0 / size))
    left, top = _LABEL_PIXELS + 18, _LABEL_PIXELS + 18 if size <= _MOST_NAMED else 24.0
    width, height = left + size * side + 8, top + size * side + 8
    middle = left + size * side / 2, top + size * side / 2
    title = "Confusion matrix: rows are true labels, columns are answers"
    drawing = element(
        "svg",
        element("title", title),
        element("text", "answer", x=middle[0], y=12, text_anchor="middle"),
        element(
            "text",
            "true label",
            x=12,
            y=middle[1],
            text_anchor="middle",
            transform=f"rotate(-90 12 {middle[1]:.6g})",
        ),
        *(_names(label, i, left, top, side) for i, label in _named(labels)),
        *_cells(counts, labels, left, top, side),
        element("rect", class_="frame", x=left, y=top, width=size * side, height=size * side),
        viewBox=f"0 0 {width:.6g} {height:.6g}",
        role="img",
        aria_label=title,
        class_="matrix",
    )
    explained = (
        "Each line is a true label, each column an answer. Right answers lie on the diagonal; "
        "a darker cell is a larger share of its line."
    )
    return element("figure", element("figcaption", explained), drawing)


def reliability_diagram(metrics: Mapping[str, Any]) -> Markup | None:
    """Draw how often the model was right by how sure it was, before and after calibration."""
    found = metrics.get("calibration")
    if not isinstance(found, Mapping) or not found.get("bins_after"):
        return None
    frame = Frame(
        across=Axis(name="probability given to the answer", low=0.0, high=1.0),
        up=Axis(name="share that was right", low=0.0, high=1.0),
        width=400.0,
        height=380.0,
    )
    diagonal = element(
        "line", class_="kept", x1=frame.x(0), y1=frame.y(0), x2=frame.x(1), y2=frame.y(1)
    )
    before, after = (_bins(frame, found, f"bins_{when}") for when in ("before", "after"))
    errors = [number(found.get(f"error_{when}")) or 0.0 for when in ("before", "after")]
    temperature = number(found.get("temperature")) or 1.0
    explained = (
        "When the model says 80 %, is it right in 80 of 100 cases? On the dashed diagonal it is; "
        "below it, it is too sure of itself. Larger dots stand for more rows."
    )
    return element(
        "figure",
        element("figcaption", explained),
        frame.drawn("Reliability diagram", diagonal, before, after),
        element(
            "ul",
            element(
                "li",
                f"as served, at temperature {shown(temperature)}: off by {percent(errors[1])} on "
                "average",
                class_="key1",
            ),
            element("li", f"before calibration: off by {percent(errors[0])}", class_="key2"),
            class_="legend",
        ),
    )


def _named(labels: Sequence[str]) -> Sequence[tuple[int, str]]:
    return list(enumerate(labels)) if len(labels) <= _MOST_NAMED else []


def _names(label: str, place: int, left: float, top: float, side: float) -> Markup:
    """Write a label beside its line and, turned, above its column."""
    cut = label if len(label) <= _LABEL_CHARS else f"{label[: _LABEL_CHARS - 1]}…"
    x, y = left + (place + 0.5) * side + 4, top + (place + 0.5) * side + 4
    turned = f"rotate(-60 {x:.6g} {top - 6:.6g})"
    whole = element("title", label)
    return joined(
        element("text", cut, whole, x=left - 6, y=y, text_anchor="end"),
        element("text", cut, whole, x=x, y=top - 6, transform=turned),
    )


def _cells(
    counts: Matrix, labels: Sequence[str], left: float, top: float, side: float
) -> list[Markup]:
    """Draw the cells that are not zero."""
    cells = []
    for line, row in enumerate(counts):
        total = max(1, sum(row))
        for column, count in enumerate(row):
            if count:
                told = f"{labels[line]} answered as {labels[column]}: {count} of {total}"
                x, y = left + column * side, top + line * side
                cells.append(_cell(told, count, count / total, x, y, side, len(labels)))
    return cells


def _cell(
    told: str, count: int, share: float, x: float, y: float, side: float, size: int
) -> Markup:
    shade = element(
        "rect",
        class_="cell",
        x=x,
        y=y,
        width=side,
        height=side,
        fill_opacity=0.08 + 0.92 * share,
    )
    written = element(
        "text",
        str(count),
        class_="on" if share > 0.45 else None,
        x=x + side / 2,
        y=y + side / 2 + 4,
        text_anchor="middle",
    )
    return element("g", element("title", told), shade, written if size <= _MOST_COUNTED else None)


def _bins(frame: Frame, calibration: Mapping[str, Any], name: str) -> Markup:
    kind = "line1" if name == "bins_after" else "line2"
    bins = calibration.get(name) or ()
    total = max(1, sum(one["num_rows"] for one in bins))
    places = [(frame.x(one["confidence"]), frame.y(one["accuracy"])) for one in bins]
    dots = (
        element(
            "circle",
            element(
                "title",
                f"{one['num_rows']} rows: said {percent(one['confidence'])}, "
                f"right {percent(one['accuracy'])}",
            ),
            class_=kind,
            cx=x,
            cy=y,
            r=3 + 7 * (one["num_rows"] / total) ** 0.5,
        )
        for one, (x, y) in zip(bins, places, strict=True)
    )
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return joined(element("polyline", class_=kind, points=line), *dots)
