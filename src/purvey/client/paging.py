"""Walking listings, and waiting between looks."""

import threading
from collections.abc import Iterator
from typing import TypeVar

from purvey.client.transport import Query, Transport
from purvey.client.values import Page

T = TypeVar("T")
PAGE_ITEMS = 100
SHORTEST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0


def items(
    transport: Transport, path: str, shape: type[Page[T]], *, query: Query | None = None
) -> Iterator[T]:
    """Yield every item of a listing, page after page."""
    after: str | None = None
    while True:
        page = transport.get(
            path, shape, query={"limit": PAGE_ITEMS, **(query or {}), "after": after}
        )
        yield from page.data
        if not page.has_more or page.last_id is None:
            return
        after = page.last_id


class Waiter:
    """Pauses between looks at something unfinished, growing from short to long."""

    def __init__(self, *, longest_pause_s: float = LONGEST_PAUSE_S) -> None:
        self._longest_pause_s = longest_pause_s

    def turns(self) -> Iterator[int]:
        """Yield 0 at once, then 1, 2, ... with a pause before each."""
        pause_s, number = min(SHORTEST_PAUSE_S, self._longest_pause_s), 0
        while True:
            yield number
            self.pause(pause_s)
            pause_s = min(2 * pause_s, self._longest_pause_s)
            number += 1

    def pause(self, pause_s: float = SHORTEST_PAUSE_S) -> None:
        """Let a moment pass, never longer than the longest pause."""
        threading.Event().wait(min(pause_s, self._longest_pause_s))
