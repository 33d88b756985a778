"""The meter: every answered request, finished job and explanation leaves one ledger row.

On a full disk an answer is not taken back for want of its row: the row is owed, in memory, and
written when there is room. A server that owes too much takes no more work, and one that ends
before there was room logs each row that it owes.
"""

import asyncio
import contextlib
import functools
import logging
from collections import deque
from itertools import islice

from sqlalchemy import Connection

from purvey.contracts.clock import Clock
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import UsageRecord, UsageTotal
from purvey.errors import CapacityError, InsufficientStorageError
from purvey.store import ledger
from purvey.store.database import Database
from purvey.store.ledger import By
from purvey.telemetry import metrics

logger = logging.getLogger(__name__)

RETRY_S = 3.0
_ROWS_AT_ONCE = 256


class Meter:
    """Writes and sums usage.

    Invariant: a row that `record` has returned from is on disk or among the owed ones.

    Args:
        database: Where the ledger is.
        clock: Times how long recording takes.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._owed: deque[UsageRecord] = deque()

    @property
    def num_owed(self) -> int:
        """Rows that wait for room on the disk."""
        return len(self._owed)

    def check_room(self) -> None:
        """Refuse work whose row could not be kept until it can be written.

        Raises:
            InsufficientStorageError: As many rows are owed as may be.
        """
        if len(self._owed) >= LIMITS.owed_usage_rows:
            raise InsufficientStorageError(
                f"the disk is full, and {len(self._owed)} usage rows wait to be written."
            )

    async def record(self, usage: UsageRecord) -> None:
        """Return once the row is on disk; the same attempt of a request counts once.

        On a full disk it returns as well: the row is then owed. A caller that is cancelled
        meanwhile stops waiting only when the row is kept: a client that leaves at the last
        moment has had its answer.

        Raises:
            StorageUnavailableError: The database refused; the row is not stored.
        """
        started = self._clock.monotonic()
        writing = asyncio.ensure_future(self._write_or_owe(usage))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            writing.result()  # a row that is not stored is told, rather than the cancellation
            raise
        metrics.METER_SECONDS.observe(self._clock.monotonic() - started)

    async def pay_back(self) -> None:
        """Write what is owed, look by look, until cancelled."""
        while True:
            await asyncio.sleep(RETRY_S)
            try:
                await self._pay()
            except CapacityError as error:
                logger.warning("usage.owed", extra={"count": len(self._owed), "code": error.code})

    async def close(self) -> None:
        """Write what is owed, for the last time; what cannot be written is logged row by row."""
        with contextlib.suppress(CapacityError):
            await self._pay()
        for usage in self._owed:
            logger.error("usage.unwritten", extra=_told(usage))

    async def summary(
        self, project_id: str, *, since: float | None = None, until: float | None = None, by: By
    ) -> list[UsageTotal]:
        """Sum the project's usage with `since` <= time < `until`, per model, kind or UTC day."""

        def sums(conn: Connection) -> list[UsageTotal]:
            return ledger.totals(conn, project_id, since=since, until=until, by=by)

        return await self._database.read(sums)

    async def _write_or_owe(self, usage: UsageRecord) -> None:
        try:
            await self._database.write(lambda conn: ledger.append(conn, usage))
        except InsufficientStorageError:
            self._owed.append(usage)
            metrics.USAGE_OWED.set(len(self._owed))

    async def _pay(self) -> None:
        """Write the oldest owed rows until none is left; a row written twice counts once."""
        while self._owed:
            rows = list(islice(self._owed, _ROWS_AT_ONCE))
            await self._database.write(functools.partial(_append, rows=rows))
            for _ in rows:
                self._owed.popleft()
            metrics.USAGE_OWED.set(len(self._owed))


def _append(conn: Connection, *, rows: list[UsageRecord]) -> None:
    for row in rows:
        ledger.append(conn, row)


def _told(usage: UsageRecord) -> dict[str, object]:
    """Return what a row says, for a log; all of it is numbers, names and ids."""
    units = ("input_tokens", "output_tokens", "images", "audio_s", "rows")
    used = {unit: getattr(usage, unit) for unit in units}
    return {
        "request_id": usage.request_id,
        "project_id": usage.project_id,
        "key_id": usage.key_id,
        "kind": usage.kind,
        "model": usage.model,
        "status": usage.status,
        "compute_s": usage.compute_s,
        "text": ", ".join(f"{unit}={count}" for unit, count in used.items() if count),
    }
