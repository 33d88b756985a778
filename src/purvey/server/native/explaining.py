"""Explanations under way: computed beside the request that asked, stored however they end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

import msgspec
from sqlalchemy import Connection

from purvey.contracts.engine import Explain
from purvey.contracts.explain import ExplanationRequest, ExplanationResult
from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import ExplanationRecord, FileRecord
from purvey.errors import (
    CapacityError,
    InsufficientStorageError,
    InternalError,
    PurveyError,
    ShuttingDownError,
)
from purvey.server.metering import metered
from purvey.server.openai import files
from purvey.server.policy import Call
from purvey.server.problems import envelope
from purvey.store import explanations
from purvey.store.database import Database
from purvey.store.idempotency import answers as kept_answers
from purvey.telemetry import metrics

logger = logging.getLogger(__name__)
Task = asyncio.Task[ExplanationRecord]
Stored = TypeVar("Stored")
ROOM_RETRY_S = 3.0


class Explainer:
    """Owner of the explanations that are being computed.

    An explanation outlives the request that asked for it: its caller may come back for it.

    Invariant: `_num_held` counts those being stored as begun and those in `_running`.
    """

    def __init__(self) -> None:
        self._running: set[Task] = set()
        self._num_held = 0

    def require_room(self) -> None:
        """Refuse one more when as many as may be are under way.

        Raises:
            CapacityError: They are.
        """
        if self._num_held >= LIMITS.running_explanations:
            raise CapacityError(
                f"{self._num_held} explanations are being computed.",
                hint="Try again when some have ended.",
            )

    async def start(
        self, call: Call, explanation: ExplanationRecord, request: ExplanationRequest
    ) -> Task:
        """Store an explanation as begun, and compute it.

        Returns:
            A task that ends in the final record, or its error.

        Raises:
            CapacityError: As many as may be are under way; nothing was stored.
        """
        self.require_room()
        self._num_held += 1
        try:
            await call.services.database.write(lambda conn: _begin(conn, call, explanation))
        except BaseException:
            self._num_held -= 1
            raise
        task = asyncio.create_task(_compute(call, explanation, request))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Stop what still runs and wait until its record says so."""
        for task in self._running:
            task.cancel()
        while self._running:
            await asyncio.wait(self._running)

    def _ended(self, task: Task) -> None:
        self._running.discard(task)
        self._num_held -= 1
        # Looked at here because nobody may wait any more; the record holds the error.
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.info("explanation.failed", extra={"code": getattr(error, "code", "")})


def _begin(conn: Connection, call: Call, explanation: ExplanationRecord) -> None:
    explanations.insert(conn, explanation)
    call.once.keep(conn, shown(explanation), subject=explanation.id, status=202)


async def recover(database: Database) -> None:
    """Mark what a server that died was computing as failed.

    On a full disk that is left to the next start: a server without room still reads and answers.
    """
    error = ShuttingDownError("the server ended while it was computing this.")

    def work(conn: Connection) -> None:
        for record in explanations.unfinished(conn):
            explanations.finish(
                conn,
                record.project_id,
                record.id,
                status="failed",
                body={**record.body, "error": dict(envelope(error)["error"])},
            )
            kept_answers.forget(conn, record.project_id, record.id)

    try:
        await database.write(work)
    except InsufficientStorageError:
        logger.warning("explanation.recovery_refused")


async def _compute(
    call: Call, explanation: ExplanationRecord, request: ExplanationRequest
) -> ExplanationRecord:
    try:
        return await _completed(call, explanation, request)
    except asyncio.CancelledError:
        error = ShuttingDownError("the server ended while it was computing this.")
        await _fail(call, explanation, error)
        raise error from None
    except PurveyError as error:
        await _when_there_is_room(lambda: _fail(call, explanation, error))
        raise
    except Exception:
        metrics.BROAD_CATCHES.labels("server.explaining").inc()
        bug = InternalError("the explanation failed.")
        await _when_there_is_room(lambda: _fail(call, explanation, bug))
        raise


async def _completed(
    call: Call, explanation: ExplanationRecord, request: ExplanationRequest
) -> ExplanationRecord:
    async with (
        call.services.engines.use(call.project_id, explanation.model) as (record, engine),
        metered(call, kind="explanation", model=record.name) as tally,
    ):
        answer = await engine.explain(Explain(request_id=call.request_id, request=request))
        tally.rows = answer.result.cost.forwards
        tally.images = int(request.image is not None)
        tally.compute_s = answer.result.cost.compute_s
    picture_id = await _keep_picture(call, explanation, answer.result)
    body = {
        **explanation.body,
        **result_shown(answer.result),
        "precision": engine.model.precision,
        "artifacts": {"png": f"/v1/files/{picture_id}/content"} if picture_id else {},
    }
    return await _when_there_is_room(
        lambda: _finish(call, explanation, "completed", body, picture_id)
    )


async def _when_there_is_room(store: Callable[[], Awaitable[Stored]]) -> Stored:
    """Store how an explanation ended; on a full disk again and again, until cancelled."""
    while True:
        try:
            return await store()
        except InsufficientStorageError:
            logger.warning("explanation.waits_for_room")
        await asyncio.sleep(ROOM_RETRY_S)


async def _fail(call: Call, explanation: ExplanationRecord, error: PurveyError) -> None:
    body = {**explanation.body, "error": dict(envelope(error)["error"])}
    await _finish(call, explanation, "failed", body, None)


async def _finish(
    call: Call,
    explanation: ExplanationRecord,
    status: Literal["completed", "failed"],
    body: dict[str, Any],
    picture_id: str | None,
) -> ExplanationRecord:
    def work(conn: Connection) -> ExplanationRecord:
        explanations.finish(
            conn,
            call.project_id,
            explanation.id,
            status=status,
            body=body,
            picture_file=picture_id,
        )
        ended = explanations.get(conn, call.project_id, explanation.id)
        _keep_ending(conn, ended)
        return ended

    return await call.services.database.write(work)


def _keep_ending(conn: Connection, ended: ExplanationRecord) -> None:
    """Let a repeated request be answered with the result; a failure it may try again."""
    if ended.status == "completed":
        answer = msgspec.json.encode(shown(ended))
        kept_answers.replace(conn, ended.project_id, ended.id, status=200, body=answer)
    else:
        kept_answers.forget(conn, ended.project_id, ended.id)


async def _keep_picture(
    call: Call, explanation: ExplanationRecord, result: ExplanationResult
) -> str | None:
    if result.picture_png is None:
        return None
    blob = await asyncio.to_thread(call.services.blobs.put_bytes, result.picture_png)
    record = FileRecord(
        id=new_id("file-"),
        project_id=call.project_id,
        name=f"{explanation.id}.png",
        purpose="vision",
        num_bytes=blob.num_bytes,
        sha256=blob.sha256,
        created_at=call.services.clock.now(),
    )
    await files.store(call, record)
    return record.id


def shown(record: ExplanationRecord) -> dict[str, Any]:
    """Show an explanation's record."""
    return {
        "id": record.id,
        "object": "explanation",
        "status": record.status,
        "created": int(record.created_at),
        "error": None,
        **record.body,
    }


def result_shown(result: ExplanationResult) -> dict[str, Any]:
    """Show a finished attribution, all but its picture."""
    plain: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(result, picture_png=None))
    plain.pop("picture_png")
    usage = {"forwards": result.cost.forwards, "compute_ms": result.cost.compute_s * 1e3}
    return {**plain, "usage": usage}
