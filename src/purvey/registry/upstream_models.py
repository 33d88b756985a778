"""Models that other servers compute: registered by name, and what they cannot be used for here."""

import hashlib
from collections.abc import Callable

import msgspec
from sqlalchemy import Connection

from purvey.contracts.clock import Clock
from purvey.contracts.model import Family, UpstreamModel, UpstreamTask
from purvey.contracts.records import ModelRecord
from purvey.errors import (
    ConflictError,
    InvalidValueError,
    MethodUnsupportedError,
    ModelNotFoundError,
)
from purvey.network.upstream import Upstreams
from purvey.store import models
from purvey.store.database import Database

ELSEWHERE: Family = "upstream"
"""The family of a model that another server computes."""


class UpstreamModels:
    """The registered models of upstreams, beside those of `ModelRegistry`.

    Args:
        database: Where records live.
        upstreams: The servers that the operator names.
        clock: Source of creation times.
    """

    def __init__(self, database: Database, upstreams: Upstreams, *, clock: Clock) -> None:
        self._database, self._upstreams, self._clock = database, upstreams, clock

    async def register(
        self,
        project_id: str,
        name: str,
        where: UpstreamModel,
        task: UpstreamTask,
        *,
        beside: Callable[[Connection, ModelRecord], None],
    ) -> ModelRecord:
        """Register a model of an upstream; the upstream is not asked, and need not be up.

        The same model under the same name again is the same registration.

        Args:
            project_id: Whose model it is.
            name: What it answers by.
            where: Who computes it.
            task: What it is for.
            beside: Writes that belong to the model, made in its transaction after it.

        Raises:
            InvalidValueError: The settings name no such upstream.
            ConflictError: The name belongs to another model.
        """
        if where.upstream not in self._upstreams.names:
            known = ", ".join(map(repr, self._upstreams.names)) or "none"
            raise InvalidValueError(
                f"this server has no upstream {where.upstream!r}.",
                param="upstream",
                hint=f"The operator names them in the setting 'upstreams': {known}.",
            )
        wanted = ModelRecord(
            name=name,
            project_id=project_id,
            family=ELSEWHERE,
            task=task,
            digest=hashlib.sha256(msgspec.json.encode((task, where))).hexdigest(),
            folder="",
            manifest={"family": ELSEWHERE, "task": task, "lineage": msgspec.to_builtins(where)},
            created_at=self._clock.now(),
        )

        def work(conn: Connection) -> ModelRecord:
            record = _found_or_made(conn, wanted)
            beside(conn, record)
            return record

        return await self._database.write(work)

    async def of(self, project_id: str) -> list[ModelRecord]:
        """List a project's, the oldest first."""
        return await self._database.read(lambda conn: models.of_family(conn, project_id, ELSEWHERE))


def elsewhere(record: ModelRecord) -> UpstreamModel | None:
    """Return where a model is computed, if not here."""
    if record.family != ELSEWHERE:
        return None
    return msgspec.convert(record.manifest["lineage"], UpstreamModel)


def require_here(record: ModelRecord) -> None:
    """Make sure that a model's weights are here.

    Raises:
        MethodUnsupportedError: Another server computes it.
    """
    where = elsewhere(record)
    if where is not None:
        raise MethodUnsupportedError(
            f"the model {record.name!r} is computed by the upstream {where.upstream!r}: what needs "
            "its weights, its gradients or its tokenizer is not done.",
            param="model",
            hint="It answers chat and completions, or embeddings. Register a folder for the rest.",
        )


def _found_or_made(conn: Connection, wanted: ModelRecord) -> ModelRecord:
    try:
        known = models.get(conn, wanted.project_id, wanted.name)
    except ModelNotFoundError:
        models.insert(conn, wanted)
        return wanted
    if (known.family, known.digest) != (wanted.family, wanted.digest):
        raise ConflictError(f"the name {wanted.name!r} belongs to another model.", param="id")
    return known
