"""A page that stands alone: its head, its sections, nothing loaded."""

from purvey.server.reporting.markup import Markup, element, joined
from purvey.server.reporting.style import INSIDE, STYLE


def sheet(title: str, *content: Markup | None) -> bytes:
    """Return a page of that title, UTF-8."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=INSIDE),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    whole = element("html", head, element("body", *content), lang="en")
    return joined(Markup("<!doctype html>\n"), whole).encode("utf-8", "replace")


def section(title: str, content: Markup | None, *, note: str | None = None) -> Markup | None:
    """Return a section; nothing where it has no content."""
    if content is None:
        return None
    told = element("p", note, class_="soft") if note else None
    return element("section", element("h2", title), told, content)
