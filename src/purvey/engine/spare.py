"""An engine process without a model, started ahead of the launch that will need it.

Importing the tensor library takes longer than reading a model. A spare process does it at a low
priority, says `Waiting`, and waits for its `LoadModel` like any other. Torch-free.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from purvey.contracts.engine import FromEngine, Waiting
from purvey.errors import InternalError, WorkerCrashedError
from purvey.ipc.child import Child

logger = logging.getLogger(__name__)
PAUSE_S = 5.0
"""From a launch to the start of the next spare process: the model that was loaded comes first."""
RETRY_S = 60.0
"""From the death of one that nobody had taken to the next."""


StartChild = Callable[[], Awaitable[Child[FromEngine]]]
"""Starts a process that will say `Waiting`."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """A process to load a model in, and what it says."""

    child: Child[FromEngine]
    messages: AsyncIterator[FromEngine]


class Spare:
    """At most one process that waits. Lives on one event loop.

    Args:
        start: How one is started.
        pause_s: See `PAUSE_S`.
        retry_s: See `RETRY_S`.
    """

    def __init__(
        self,
        start: StartChild,
        *,
        pause_s: float = PAUSE_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._start, self._pause_s, self._retry_s = start, pause_s, retry_s
        self._ready: Started | None = None
        self._taken = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process that waits, if one does."""
        return self._ready.child.pid if self._ready else None

    def take(self) -> Started | None:
        """Return the process that waits, now the caller's to end; None where none is ready."""
        ready, self._ready = self._ready, None
        if ready is not None:
            self._taken.set()
        return ready

    async def keep(self) -> None:
        """Have one ready whenever there is time, until cancelled; then none is left."""
        while True:
            pause_s = self._pause_s if await self._one() else self._retry_s
            await asyncio.sleep(pause_s)

    async def _one(self) -> bool:
        """Start one and wait until it is taken, or dead; tell whether it was taken."""
        try:
            child = await self._start()
        except WorkerCrashedError:
            return False
        self._taken.clear()
        try:
            messages = child.messages()
            if not isinstance(await anext(messages, None), Waiting):
                return False
            self._ready = Started(child=child, messages=messages)
            logger.info("engine.spare_ready", extra={"pid": child.pid})
            await self._until_taken_or_dead(child)
        except InternalError:
            logger.exception("engine.spare_disagreed", extra={"pid": child.pid})
        finally:
            self._ready = None
            if not self._taken.is_set():
                await end(child)
        return self._taken.is_set()

    async def _until_taken_or_dead(self, child: Child[FromEngine]) -> None:
        died = asyncio.Event()
        child.when_ended(died.set)
        waits = [asyncio.create_task(event.wait()) for event in (self._taken, died)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await wait


async def end(child: Child[FromEngine]) -> None:
    """Kill a process and wait for its end."""
    child.kill()
    child.hang_up()
    await child.wait()
