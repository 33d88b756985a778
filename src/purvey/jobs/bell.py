"""Wake-ups inside one event loop: who waits for a change is told at once, without polling.

A ring carries no value: the listener reads the database, which is the truth.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

QUEUE = "queue"
"""Topic: a job may be ready to run."""


def events_of(job_id: str) -> str:
    """Name the topic of a job's new events and of its end."""
    return f"events:{job_id}"


def wishes_for(job_id: str) -> str:
    """Name the topic of what the owner wants of a running job (`wanted`)."""
    return f"wishes:{job_id}"


class Bell:
    """Topics that can be rung and listened to, all on one event loop.

    Invariant: a topic has an entry only while somebody listens.
    """

    def __init__(self) -> None:
        self.is_closed = False
        """Whether the server ends: whoever waits for what a client wants to see stops waiting."""
        self._listeners: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def ring(self, topic: str) -> None:
        """Wake everyone who listens to the topic now."""
        for heard in self._listeners.get(topic, ()):
            heard.set()

    def close(self) -> None:
        """Say that the server ends, and wake every listener to notice it."""
        self.is_closed = True
        for topic in self._listeners:
            self.ring(topic)

    @contextmanager
    def listen(self, *topics: str) -> Iterator[asyncio.Event]:
        """Yield an event that every ring of any of the topics sets.

        Clear it before reading what may have changed, then wait: no ring is lost.
        """
        heard = asyncio.Event()
        for topic in topics:
            self._listeners[topic].add(heard)
        try:
            yield heard
        finally:
            for topic in topics:
                self._listeners[topic].discard(heard)
                if not self._listeners[topic]:
                    del self._listeners[topic]
