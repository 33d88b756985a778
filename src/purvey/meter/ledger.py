"""The meter: every answered request, finished job and explanation leaves one ledger row."""

import asyncio

from sqlalchemy import Connection

from purvey.contracts.clock import Clock
from purvey.contracts.records import UsageRecord, UsageTotal
from purvey.store import ledger
from purvey.store.database import Database
from purvey.store.ledger import By
from purvey.telemetry import metrics


class Meter:
    """Writes and sums usage.

    Args:
        database: Where the ledger is.
        clock: Times how long recording takes.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def record(self, usage: UsageRecord) -> None:
        """Return once the row is on disk; the same attempt of a request counts once.

        A caller that is cancelled meanwhile stops waiting only when the row is on disk: a
        client that leaves at the last moment has had its answer.

        Raises:
            InsufficientStorageError: The disk is full; the row is not stored.
            StorageUnavailableError: The database refused; the row is not stored.
        """
        started = self._clock.monotonic()
        writing = asyncio.ensure_future(
            self._database.write(lambda conn: ledger.append(conn, usage))
        )
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            writing.result()  # a row that is not stored is told, rather than the cancellation
            raise
        metrics.METER_SECONDS.observe(self._clock.monotonic() - started)

    async def summary(
        self, project_id: str, *, since: float | None = None, until: float | None = None, by: By
    ) -> list[UsageTotal]:
        """Sum the project's usage with `since` <= time < `until`, per model, kind or UTC day."""

        def sums(conn: Connection) -> list[UsageTotal]:
            return ledger.totals(conn, project_id, since=since, until=until, by=by)

        return await self._database.read(sums)
