"""Learning curves: what a run told while it trained, drawn over its steps."""

from collections.abc import Sequence

from purvey.server.reporting.axes import Axis, Frame, axis_over, shown
from purvey.server.reporting.markup import Markup, element, joined
from purvey.server.reporting.values import RunReport, number
from purvey.server.reporting.wording import title_of

MOST_POINTS = 400
"""Points of a curve that are drawn; of more, every n-th and the last."""
_NO_CURVE = frozenset(
    {"step", "total_steps", "epoch", "rows_per_s", "tokens_per_s", "seconds_left"}
)
_LOSSES = ("train_loss", "valid_loss")
Points = list[tuple[float, float]]


def learning_curves(report: RunReport) -> Markup | None:
    """Return a plot of the losses, one of each metric and one of the learning rate."""
    names = dict.fromkeys(name for point in report.points for name in point)
    curves = {name: _points(report, name) for name in names if name not in _NO_CURVE}
    curves = {name: points for name, points in curves.items() if points}
    plots = [_plot(report, "Loss", {n: curves[n] for n in _LOSSES if n in curves})]
    others = [name for name in curves if name not in {*_LOSSES, "learning_rate"}]
    plots += [_plot(report, title_of(name), {name: curves[name]}) for name in others]
    if "learning_rate" in curves:
        plots.append(_plot(report, "Learning rate", {"learning_rate": curves["learning_rate"]}))
    found = [plot for plot in plots if plot is not None]
    return element("div", *found, class_="plots") if found else None


def _points(report: RunReport, name: str) -> Points:
    """Return a curve's points by step; of a step told twice, the last."""
    found: dict[float, float] = {}
    for point in report.points:
        step, value = number(point.get("step")), number(point.get(name))
        if step is not None and value is not None:
            found[step] = value
    points = sorted(found.items())
    stride = -(-len(points) // MOST_POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def _plot(report: RunReport, title: str, curves: dict[str, Points]) -> Markup | None:
    if not curves:
        return None
    steps = [step for points in curves.values() for step, _ in points]
    values = [value for points in curves.values() for _, value in points]
    across = Axis(name="step", low=0.0, high=max(*steps, 1.0))
    frame = Frame(across=across, up=axis_over(title.lower(), values))
    lines = (_line(frame, points, f"line{n}") for n, points in enumerate(curves.values(), 1))
    legend = (element("li", title_of(name), class_=f"key{n}") for n, name in enumerate(curves, 1))
    return element(
        "figure",
        element("figcaption", f"{title} by step"),
        frame.drawn(f"{title} by step", _kept(frame, report.kept_step), *lines),
        element("ul", *legend, class_="legend") if len(curves) > 1 else None,
    )


def _line(frame: Frame, points: Sequence[tuple[float, float]], kind: str) -> Markup:
    places = " ".join(f"{frame.x(step):.1f},{frame.y(value):.1f}" for step, value in points)
    dots = (
        element(
            "circle",
            element("title", f"step {shown(step)}: {shown(value)}"),
            class_=kind,
            cx=frame.x(step),
            cy=frame.y(value),
            r=2.5,
        )
        for step, value in (points if len(points) <= 60 else ())
    )
    return joined(element("polyline", class_=kind, points=places), *dots)


def _kept(frame: Frame, step: float | None) -> Markup | None:
    """Mark the step whose weights were kept."""
    if step is None or step > frame.across.high:
        return None
    x, is_late = frame.x(step), frame.across.share(step) > 0.7
    return joined(
        element(
            "line",
            class_="kept",
            x1=x,
            x2=x,
            y1=frame.y(frame.up.low),
            y2=frame.y(frame.up.high),
        ),
        element(
            "text",
            "kept",
            x=x - 4 if is_late else x + 4,
            y=frame.y(frame.up.high) + 10,
            text_anchor="end" if is_late else "start",
        ),
    )
