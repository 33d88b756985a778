"""A gate that coroutines wait at and that any thread may open."""

import asyncio
import threading


class Gate:
    """Open at first; while closed, `passed` waits. Safe across threads and event loops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_open = True
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def num_waiting(self) -> int:
        """How many coroutines stand at the gate."""
        with self._lock:
            return len(self._waiting)

    def close(self) -> None:
        """Let nobody pass from now on."""
        with self._lock:
            self._is_open = False

    def open(self) -> None:
        """Let everybody pass, those that wait too."""
        with self._lock:
            self._is_open = True
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    async def passed(self) -> None:
        """Return at once while the gate is open, else when it opens."""
        with self._lock:
            if self._is_open:
                return
            mine = (asyncio.get_running_loop(), asyncio.Event())
            self._waiting.append(mine)
        try:
            await mine[1].wait()
        finally:
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
