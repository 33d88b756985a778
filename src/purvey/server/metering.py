"""One ledger row for each request that reached a model, written before its answer is final."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from purvey.contracts.records import UsageKind, UsageRecord
from purvey.server.policy import Call
from purvey.telemetry import metrics

UsageStatus = Literal["ok", "error", "cancelled"]


@dataclass(kw_only=True)
class Tally:
    """What a request has used so far; filled in while it runs."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    images: int = 0
    audio_s: float = 0.0
    rows: int = 0
    compute_s: float = 0.0
    is_estimated: bool = False


@asynccontextmanager
async def metered(call: Call, *, kind: UsageKind, model: str) -> AsyncIterator[Tally]:
    """Tally a request, and record it on the way out however it ended.

    Leaving the block waits until the row is on disk, or owed where the disk is full; an error
    or a client that left is recorded with what was used until then.

    Raises:
        InsufficientStorageError: So many rows are owed that no more work is done.
    """
    call.services.meter.check_room()
    tally = Tally()
    started_at = call.services.clock.monotonic()
    try:
        yield tally
    except (asyncio.CancelledError, GeneratorExit):
        await _record(call, tally, kind, model, started_at, status="cancelled")
        raise
    except BaseException:
        await _record(call, tally, kind, model, started_at, status="error")
        raise
    await _record(call, tally, kind, model, started_at, status="ok")


async def _record(
    call: Call,
    tally: Tally,
    kind: UsageKind,
    model: str,
    started_at: float,
    *,
    status: UsageStatus,
) -> None:
    clock = call.services.clock
    metrics.INPUT_TOKENS.labels(kind).inc(tally.input_tokens)
    metrics.OUTPUT_TOKENS.labels(kind).inc(tally.output_tokens)
    await call.services.meter.record(
        UsageRecord(
            request_id=call.request_id,
            project_id=call.project_id,
            key_id=call.principal.key_id,
            kind=kind,
            model=model,
            status=status,
            input_tokens=tally.input_tokens,
            output_tokens=tally.output_tokens,
            images=tally.images,
            audio_s=tally.audio_s,
            rows=tally.rows,
            compute_s=tally.compute_s or clock.monotonic() - started_at,
            is_estimated=tally.is_estimated,
            created_at=clock.now(),
        )
    )
