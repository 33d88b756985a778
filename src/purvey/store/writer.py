"""One thread that writes: everything that waits shares one commit, and so one fsync.

Each piece of work runs in a savepoint of its own, so an exception undoes that piece only.
Callers learn of success after the commit and never before it.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

from purvey.contracts.clock import Clock
from purvey.errors import StorageUnavailableError
from purvey.store.failures import storage_error
from purvey.telemetry import metrics

T = TypeVar("T")
MAX_BATCH = 512
"""Pieces of work in one commit at most, which bounds how long the first one waits."""


class Writer:
    """The only thread that writes to the database.

    Invariant: a future of `submit` is resolved with a result only after the commit that
    holds its work; every future is resolved exactly once, also when the writer closes.

    Args:
        connection: Opened for writing; used by no other thread from now on.
        clock: Times the commits.
    """

    def __init__(self, connection: Connection, *, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._waiting: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._door = threading.Lock()  # nothing is queued behind the end mark
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Connection], T]) -> Future[T]:
        """Queue work for the next commit.

        Raises:
            StorageUnavailableError: The writer is closed.
        """
        piece = _Piece(work=work, future=Future())
        with self._door:
            if not self._is_open:
                raise StorageUnavailableError("the database is closed.")
            self._waiting.put(piece)
        return piece.future

    def close(self) -> None:
        """Commit what is queued, then end the thread and the connection."""
        with self._door:
            if self._is_open:
                self._is_open = False
                self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            batch, is_last = self._next_batch()
            if batch:
                self._commit(batch)
        self._connection.close()

    def _next_batch(self) -> "tuple[list[_Piece], bool]":
        """Wait for work, then take what else is there; the flag says that the end mark came."""
        batch: list[_Piece] = []
        piece = self._waiting.get()
        while piece is not None:
            batch.append(piece)
            if len(batch) == MAX_BATCH:
                return batch, False
            try:
                piece = self._waiting.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit(self, batch: "list[_Piece]") -> None:
        started = self._clock.monotonic()
        try:
            with self._connection.begin():
                for piece in batch:
                    self._attempt(piece)
        except (DBAPIError, StorageUnavailableError) as error:
            # The transaction is gone as a whole: nobody's work is stored.
            lost = storage_error(error)
            for piece in batch:
                piece.error = piece.error or lost
        metrics.WRITER_BATCH_SIZE.observe(len(batch))
        metrics.WRITER_COMMIT_SECONDS.observe(self._clock.monotonic() - started)
        _settle(batch)

    def _attempt(self, piece: "_Piece") -> None:
        if not piece.future.set_running_or_notify_cancel():
            piece.is_cancelled = True
            return
        self._connection.exec_driver_sql("SAVEPOINT piece")
        try:
            piece.result = piece.work(self._connection)
        except Exception as error:  # noqa: BLE001 (not swallowed: it is raised to its caller)
            piece.error = storage_error(error) if isinstance(error, OperationalError) else error
            self._undo(error)
        self._connection.exec_driver_sql("RELEASE piece")

    def _undo(self, error: Exception) -> None:
        """Roll one piece back; a failing disk may have ended the whole transaction."""
        try:
            self._connection.exec_driver_sql("ROLLBACK TO piece")
        except OperationalError:
            raise storage_error(error) from error


@dataclass(eq=False, kw_only=True)
class _Piece:
    work: Callable[[Connection], Any]  # what it returns goes to its own future only
    future: "Future[Any]"
    result: Any = None
    error: Exception | None = None
    is_cancelled: bool = False


def _settle(batch: list[_Piece]) -> None:
    for piece in batch:
        if piece.is_cancelled:
            continue
        if piece.error is not None:
            piece.future.set_exception(piece.error)
        else:
            piece.future.set_result(piece.result)


async def settled(future: "Future[T]") -> T:
    """Wait in a coroutine; cancelling the wait does not undo work that has begun."""
    return await asyncio.wrap_future(future)
