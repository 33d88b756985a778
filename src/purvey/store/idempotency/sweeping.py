"""The sweep: kept answers whose time is over leave the database, a bounded number at a time."""

import asyncio
from contextlib import suppress

from purvey.contracts.clock import Clock
from purvey.errors import CapacityError
from purvey.store.database import Database
from purvey.store.idempotency import answers

INTERVAL_S = 60.0


async def sweep_old(database: Database, clock: Clock) -> None:
    """Look every minute, until cancelled; an idle server reads and does not write."""
    while True:
        with suppress(CapacityError):  # the store refuses; the next look may be luckier
            await sweep_once(database, clock)
        await asyncio.sleep(INTERVAL_S)


async def sweep_once(database: Database, clock: Clock) -> int:
    """Remove some of what is too old, and return how many rows that were.

    Raises:
        CapacityError: The store refused.
    """
    now = clock.now()
    if not await database.read(lambda conn: answers.has_old(conn, now=now)):
        return 0
    return await database.write(lambda conn: answers.sweep(conn, now=now))
