"""HTML and SVG by construction: text is escaped unless it was made here."""

import html
from typing import Final

_VOID: Final = frozenset({"meta"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def element(tag: str, /, *children: str | None, **attributes: str | float | None) -> Markup:
    """Return an element.

    Args:
        tag: Name of the element, from this package alone.
        children: What it holds; whatever is not `Markup` is escaped, None is nothing.
        attributes: `class_` is `class`, `stroke_width` is `stroke-width`; None is left out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{given}>")
    return Markup(f"<{tag}{given}>{joined(*children)}</{tag}>")


def joined(*parts: str | None) -> Markup:
    """Return parts one after the other, escaped as children are."""
    return Markup("".join(_escaped(part) for part in parts if part is not None))


def table(caption: str, heads: tuple[str, ...], rows: list[tuple[str | None, ...]]) -> Markup:
    """Return a table whose rows are named by their first cell."""
    head = element("tr", *(element("th", text, scope="col") for text in heads))
    body = (
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell) for cell in row[1:]),
        )
        for row in rows
    )
    whole = element(
        "table", element("caption", caption), element("thead", head), element("tbody", *body)
    )
    return element("div", whole, class_="wide")


def _escaped(part: str) -> str:
    return part if isinstance(part, Markup) else html.escape(part)


def _attribute(value: str | float) -> str:
    return html.escape(value) if isinstance(value, str) else f"{value:.6g}"
