"""The database: opened with care, written by one thread, read by a few.

SQLite in WAL mode with `synchronous=FULL`: what a write returned from survives a power cut.
This process is the only writer, and its checkpoints run in the writer's thread (SQLite
before 3.51.3 can corrupt a file that two connections checkpoint).
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from purvey.contracts.clock import Clock
from purvey.errors import StorageUnavailableError
from purvey.store import schema, sqlite
from purvey.store.failures import is_refusal
from purvey.store.writer import Writer

T = TypeVar("T")
NUM_READERS = 4


class Database:
    """Transactions over the store. Open with `Database.open`, end with `close`.

    A function given to `write` or `read` gets a `Connection` inside a transaction; it must
    neither commit nor keep it. Reads see every write that has returned.
    """

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self._engine = engine
        self._writer = writer
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="store-reader")
        self._reading: list[Connection] = []

    @classmethod
    def open(cls, url: str, *, clock: Clock) -> Self:
        """Open the database, created or brought to this version's schema if need be.

        Args:
            url: `sqlite:///` and a path.
            clock: Times the commits.

        Raises:
            SettingError: The URL is not usable, or the file is damaged, foreign or of a newer
                version; the file is unchanged.
            StorageUnavailableError: The disk refused.
        """
        path = sqlite.path_of(url)
        schema.prepare(path)
        return cls(
            sqlite.reading_engine(path),
            Writer(sqlite.writing_engine(path).connect, clock=clock),
        )

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in the writer's next commit, and return once that is on disk.

        Raises:
            Exception: What `work` raised; nothing of it is stored.
            InsufficientStorageError: The disk is full; nothing of it is stored.
            StorageUnavailableError: The disk or database refused; nothing of it is stored.
        """
        return await self._writer.write(work)

    def write_now(self, work: Callable[[Connection], T]) -> T:
        """Do as `write`, for callers in threads."""
        return self._writer.write_now(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one snapshot of the database, off the event loop.

        Raises:
            Exception: What `work` raised.
            StorageUnavailableError: The disk or database refused.
        """
        return await asyncio.wrap_future(self._queue_read(work))

    def read_now(self, work: Callable[[Connection], T]) -> T:
        """Do as `read`, for callers in threads."""
        return self._queue_read(work).result()

    def close(self) -> None:
        """Commit what is queued and close; safe to call twice."""
        self._readers.shutdown()
        for connection in self._reading:
            connection.close()
        self._reading.clear()
        self._writer.close()  # last, so that it is the one to fold the WAL into the file

    def _queue_read(self, work: Callable[[Connection], T]) -> Future[T]:
        try:
            return self._readers.submit(self._read, work)
        except RuntimeError as error:  # the pool is shut down
            raise StorageUnavailableError("the database is closed.") from error

    def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            connection = self._reader()
            with connection.begin():
                return work(connection)
        except DBAPIError as error:
            if is_refusal(error):
                raise StorageUnavailableError("the database could not be read.") from error
            raise

    def _reader(self) -> Connection:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._engine.connect()
            self._reading.append(connection)
        return connection
