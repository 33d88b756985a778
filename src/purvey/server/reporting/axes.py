"""A plot's frame: values to places, round ticks, grid, and the names of both axes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from purvey.server.reporting.markup import Markup, element, joined

_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 14.0, 12.0, 42.0


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One direction of a plot; `low` is below `high`."""

    name: str
    low: float
    high: float

    def share(self, value: float) -> float:
        """Return where a value lies, 0 at `low` and 1 at `high`."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A plot of `width` x `height` pixels with its two axes."""

    across: Axis
    up: Axis
    width: float = 460.0
    height: float = 270.0

    def x(self, value: float) -> float:
        """Return the place of a value across."""
        return _LEFT + self.across.share(value) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Return the place of a value up."""
        return self.height - _BOTTOM - self.up.share(value) * (self.height - _TOP - _BOTTOM)

    def drawn(self, title: str, *marks: str | None) -> Markup:
        """Return the plot with its marks, as an image of that title."""
        return element(
            "svg",
            element("title", title),
            *(self._line_up(tick) for tick in ticks(self.up)),
            *(self._tick_across(tick) for tick in ticks(self.across)),
            self._names(),
            *marks,
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            role="img",
            aria_label=title,
        )

    def _line_up(self, tick: float) -> Markup:
        y = self.y(tick)
        end = self.width - _RIGHT
        return joined(
            element("line", class_="grid", x1=_LEFT, x2=end, y1=y, y2=y),
            element("text", shown(tick), x=_LEFT - 6, y=y + 4, text_anchor="end"),
        )

    def _tick_across(self, tick: float) -> Markup:
        x, y = self.x(tick), self.height - _BOTTOM
        return joined(
            element("line", class_="grid", x1=x, x2=x, y1=y, y2=y + 4),
            element("text", shown(tick), x=x, y=y + 17, text_anchor="middle"),
        )

    def _names(self) -> Markup:
        across = (self.x(self.across.low) + self.x(self.across.high)) / 2
        up = (self.y(self.up.low) + self.y(self.up.high)) / 2
        return joined(
            element("text", self.across.name, x=across, y=self.height - 6, text_anchor="middle"),
            element(
                "text",
                self.up.name,
                x=12,
                y=up,
                text_anchor="middle",
                transform=f"rotate(-90 12 {up:.6g})",
            ),
        )


def axis_over(name: str, values: Sequence[float]) -> Axis:
    """Return an axis that holds all the values, at least one, with a little room."""
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or max(abs(high) * 0.1, 1e-9)
    return Axis(name=name, low=low - room, high=high + room)


def ticks(axis: Axis) -> list[float]:
    """Return about five round numbers of an axis."""
    span = axis.high - axis.low
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * f for f in (1, 2, 5, 10) if span / (power * f) <= 6)
    first, last = math.ceil(axis.low / step), math.floor(axis.high / step)
    return [number * step for number in range(first, last + 1)]


def shown(value: float) -> str:
    """Return a number as a person reads it: four figures."""
    return f"{value:.4g}"
