"""One thread that writes: everything that waits shares one commit, and so one fsync.

Each piece of work runs in a savepoint of its own, so an exception undoes that piece only.
Callers learn of success after the commit and never before it.
"""

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from purvey import failpoints
from purvey.contracts.clock import Clock
from purvey.errors import InsufficientStorageError, StorageUnavailableError
from purvey.store.failures import error_number, is_refusal, storage_error
from purvey.telemetry import metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")
MAX_BATCH = 512
"""Pieces of work in one commit at most, which bounds how long the first one waits."""


class Writer:
    """The only thread that writes to the database.

    Invariant: a caller gets a result only after the commit that holds its work, and every
    caller gets exactly one result or error, also when the writer closes.

    Args:
        connect: Opens a connection for writing; called again after a transaction was lost.
        clock: Times the commits.
    """

    def __init__(self, connect: Callable[[], Connection], *, clock: Clock) -> None:
        self._connect = connect
        self._clock = clock
        self._connection: Connection | None = connect()
        self._waiting: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._door = threading.Lock()  # nothing is queued behind the end mark
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Wait for the commit that holds `work`. A cancelled caller's work may still be done.

        Raises:
            Exception: What `work` raised.
            CapacityError: The disk or database refused, or the writer is closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._submit(_Piece(work=work, future=future, loop=loop))
        return await future

    def write_now(self, work: Callable[[Connection], T]) -> T:
        """Do as `write`, for callers in threads."""
        future: Future[T] = Future()
        self._submit(_Piece(work=work, future=future, loop=None))
        return future.result()

    def close(self) -> None:
        """Commit what is queued, then end the thread and the connection."""
        with self._door:
            if self._is_open:
                self._is_open = False
                self._waiting.put(None)
        self._thread.join()

    def _submit(self, piece: "_Piece") -> None:
        with self._door:
            if not self._is_open:
                raise StorageUnavailableError("the database is closed.")
            self._waiting.put(piece)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            batch, is_last = self._next_batch()
            wanted = [piece for piece in batch if not piece.future.cancelled()]
            if wanted:
                self._commit(wanted)
        self._drop_connection()

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
            if self._connection is None:
                self._connection = self._connect()
            with self._connection.begin():
                for piece in batch:
                    _attempt(self._connection, piece)
                failpoints.reach("db.commit")
        except Exception as error:
            # The transaction is gone as a whole: nobody's work is stored.
            refusal = storage_error(error)
            if isinstance(refusal, InsufficientStorageError):  # no bug, and soon said again
                logger.warning("store.full", extra={"count": len(batch)})
            else:
                logger.exception("store.batch_lost", extra={"errno": error_number(error)})
                metrics.BROAD_CATCHES.labels("store.writer").inc()
            for piece in batch:
                piece.error = piece.error or refusal
            self._drop_connection()
        metrics.WRITER_BATCH_SIZE.observe(len(batch))
        metrics.WRITER_COMMIT_SECONDS.observe(self._clock.monotonic() - started)
        _settle(batch)

    def _drop_connection(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):  # it goes either way
                self._connection.close()
            self._connection = None


@dataclass(eq=False, kw_only=True, slots=True)
class _Piece:
    work: Callable[[Connection], Any]  # what it returns goes to its own future only
    future: Any  # Future or asyncio.Future of what `work` returns
    loop: asyncio.AbstractEventLoop | None
    result: Any = None  # what `work` returned
    error: Exception | None = None

    def deliver(self) -> None:
        if self.future.cancelled():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


def _attempt(connection: Connection, piece: _Piece) -> None:
    # Straight to the driver: SQLAlchemy's own way costs as much as a small insert.
    driver = connection.connection.driver_connection
    assert driver is not None, "the connection was closed by a piece of work"  # noqa: S101
    driver.execute("SAVEPOINT piece")
    try:
        piece.result = piece.work(connection)
    except Exception as error:
        piece.error = error
        if is_refusal(error):
            piece.error = storage_error(error)
            if not isinstance(piece.error, InsufficientStorageError):
                logger.exception("store.refused", extra={"errno": error_number(error)})
            if not driver.in_transaction:  # a failing disk ends the whole transaction
                raise piece.error from error
        driver.execute("ROLLBACK TO piece")
    driver.execute("RELEASE piece")


def _settle(batch: list[_Piece]) -> None:
    """Tell every caller; each event loop is woken once, not once for each of its callers."""
    by_loop = sorted(batch, key=_loop_id)
    for _, group in groupby(by_loop, key=_loop_id):
        pieces = list(group)
        loop = pieces[0].loop
        if loop is None:
            _deliver(pieces)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_deliver, pieces)


def _loop_id(piece: _Piece) -> int:
    return id(piece.loop)


def _deliver(pieces: list[_Piece]) -> None:
    for piece in pieces:
        piece.deliver()
