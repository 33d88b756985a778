"""Answers of an engine to one request, from the task that reads its link to the one that waits."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

A = TypeVar("A")


class Awaited(Generic[A]):
    """A queue with one reader, on one event loop; unbounded, and cheaper than `asyncio.Queue`."""

    __slots__ = ("_ready", "_waiter")

    def __init__(self) -> None:
        self._ready: deque[A] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, answer: A) -> None:
        """Add an answer and wake the reader."""
        self._ready.append(answer)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():  # else it was cancelled
                waiter.set_result(None)

    async def get(self) -> A:
        """Return the next answer; wait for it if need be."""
        while not self._ready:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._ready.popleft()
