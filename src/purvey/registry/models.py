"""Models by name: registered from the operator's folders, or made by jobs. Immutable."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection

from purvey.contracts.clock import Clock
from purvey.contracts.jobs import TERMINAL, TRANSITIONS
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ModelManifest, ModelSource
from purvey.contracts.records import JobRecord, ModelRecord
from purvey.errors import (
    ConflictError,
    IntegrityError,
    InUseError,
    ModelNotFoundError,
    NotFoundError,
)
from purvey.registry.adapter_base import find_base
from purvey.registry.adapters import require_fits
from purvey.registry.folder_check import CheckedFolder, check_folder, is_model_folder
from purvey.registry.model_bytes import verify_folder, verify_model
from purvey.registry.names import trained_name, wanted_name
from purvey.registry.upstream_models import require_here
from purvey.store import jobs, models
from purvey.store.artifacts import Artifact, Artifacts
from purvey.store.database import Database
from purvey.store.rows import Order, Page
from purvey.store.seals.marks import Seals
from purvey.store.serving import deployments
from purvey.telemetry import alarms

CACHED_RECORDS = 4_096


class ModelRegistry:
    """The models of every project. One registry per database: deleting takes effect through it.

    Args:
        database: Where records live.
        artifacts: Where trained models live.
        model_roots: Folders under which the operator's own model folders must lie.
        clock: Source of creation times.
        seals: Which files need no full check before they are used; None checks all of them always.
    """

    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        *,
        model_roots: Sequence[Path],
        clock: Clock,
        seals: Seals | None = None,
    ) -> None:
        self._database, self._artifacts, self._clock = database, artifacts, clock
        self._seals = seals
        self._model_roots = tuple(model_roots)
        self._known: OrderedDict[tuple[str, str], ModelRecord] = OrderedDict()
        self._num_deletions = 0

    async def get(self, project_id: str, name: str) -> ModelRecord:
        """Return a model.

        Raises:
            ModelNotFoundError: No such model, or another project's.
        """
        known = self._known.get((project_id, name))
        if known is not None:
            return known
        before = self._num_deletions
        record = await self._database.read(lambda conn: models.get(conn, project_id, name))
        if before == self._num_deletions:  # else it may be the one that has just been deleted
            self._known[project_id, name] = record
            if len(self._known) > CACHED_RECORDS:
                self._known.popitem(last=False)
        return record

    async def page(
        self,
        project_id: str,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Order = "desc",
    ) -> Page[ModelRecord]:
        """List a project's models, newest first unless `order` says otherwise."""
        return await self._database.read(
            lambda conn: models.page(conn, project_id, after=after, limit=limit, order=order)
        )

    async def delete(self, project_id: str, name: str) -> ModelRecord:
        """Forget a model and return what it was; its files stay until they are collected.

        Raises:
            ModelNotFoundError: No such model, or another project's.
            InUseError: An unfinished job starts from it, or an adapter or deployment needs it.
        """
        record = await self._database.write(lambda conn: self._delete(conn, project_id, name))
        self._num_deletions += 1
        self._known.pop((project_id, name), None)
        return record

    async def has_folder(self, folder: Path) -> bool:
        """Tell whether a path leads to a folder under a model root."""
        return await asyncio.to_thread(is_model_folder, folder, model_roots=self._model_roots)

    async def register_folder(
        self,
        project_id: str,
        name: str,
        folder: Path,
        *,
        base: str | None = None,
        beside: Callable[[Connection, ModelRecord], None] | None = None,
    ) -> ModelRecord:
        """Register a folder of the operator, served in place: a model, or an adapter of one.

        The same folder under the same name again is the same registration.

        Args:
            project_id: Whose model it is.
            name: What it answers by.
            folder: Where its files are.
            base: Of an adapter: the model that it belongs to, where the folder does not tell.
            beside: Writes that belong to the model, made in its transaction after it.

        Raises:
            InvalidValueError: The folder lies outside the model roots, or its base is none.
            InvalidCheckpointError: The folder cannot be served, or not on that base.
            ModelNotFoundError: No such base, or another project's.
            ConflictError: The name belongs to another model.
        """
        checked = await asyncio.to_thread(check_folder, folder, model_roots=self._model_roots)
        found = await self._database.read(lambda conn: find_base(conn, project_id, checked, base))
        if found is not None and checked.adapter is not None:
            await asyncio.to_thread(require_fits, checked.adapter, self.folder(found))

        def work(conn: Connection) -> ModelRecord:
            now = find_base(conn, project_id, checked, found.name if found else base)
            if now is not None and found is not None and now.digest != found.digest:
                raise ConflictError(f"the model {now.name!r} is another one now.", param="base")
            record = self._insert_folder(conn, project_id, name, checked, now)
            if beside is not None:
                beside(conn, record)
            return record

        return await self._database.write(work)

    def register_trained(
        self,
        conn: Connection,
        job: JobRecord,
        manifest: ModelManifest,
        artifact: Artifact,
        base: ModelRecord | None,
    ) -> ModelRecord:
        """Register what a job made, in the caller's transaction."""
        wanted = wanted_name(job)
        is_taken = wanted is not None and _find(conn, job.project_id, wanted) is not None
        record = ModelRecord(
            name=trained_name(job, is_taken=is_taken),
            project_id=job.project_id,
            family=manifest.family,
            task=manifest.task,
            digest=artifact.digest,
            folder=str(artifact.folder),
            artifact=artifact.digest,
            base_model=base.name if base else None,
            job_id=job.id,
            manifest=_json(manifest),
            created_at=self._clock.now(),
        )
        models.insert(conn, record)
        return record

    async def source(self, record: ModelRecord) -> ModelSource:
        """Return where a process finds the model, its base included, having verified its bytes.

        Raises:
            IntegrityError: A stored file is not what was written, or the base is gone.
        """
        try:
            source = await self.located(record)
            await asyncio.to_thread(verify_model, source, self._seals)
        except IntegrityError:
            alarms.integrity_failed("model", digest=record.digest)
            raise
        return source

    async def located(self, record: ModelRecord) -> ModelSource:
        """Return where a process finds the model, its base included, without reading its bytes.

        Raises:
            IntegrityError: Its folder or its base is gone.
        """
        return await self._database.read(lambda conn: self.source_in(conn, record))

    def source_in(self, conn: Connection, record: ModelRecord) -> ModelSource:
        """Return where a process finds the model, within the caller's transaction.

        Raises:
            IntegrityError: Its folder is gone; or it is an adapter and its base is gone or
                another one now.
        """
        base = self.base_of(conn, record)
        return ModelSource(
            name=record.name,
            folder=str(self.folder(record)),
            digest=record.digest,
            base_folder=str(self.folder(base)) if base else None,
            base_digest=base.digest if base else None,
        )

    async def base(self, record: ModelRecord) -> ModelRecord | None:
        """Return the model that an adapter lies on; None where the record is no adapter's.

        Raises:
            IntegrityError: The base is gone, or another one now.
        """
        if record.manifest.get("base") is None:
            return None
        known = self._known.get((record.project_id, record.base_model or ""))
        if known is not None:
            return _require_base(record, known)
        return await self._database.read(lambda conn: self.base_of(conn, record))

    def base_of(self, conn: Connection, record: ModelRecord) -> ModelRecord | None:
        """Return the model whose weights this one needs beside its own, if any.

        Raises:
            IntegrityError: The base is gone, or another one now.
        """
        if manifest_of(record).base is None:
            return None
        return _require_base(record, _find(conn, record.project_id, record.base_model or ""))

    async def adapter_folder(self, record: ModelRecord) -> Path:
        """Return the folder of an adapter, having verified its bytes; its base is not looked at.

        Raises:
            IntegrityError: A stored file is not what was written.
        """
        folder = self.folder(record)
        try:
            verify = partial(verify_folder, name=record.name, seals=self._seals)
            await asyncio.to_thread(verify, folder, record.digest)
        except IntegrityError:
            alarms.integrity_failed("model", digest=record.digest)
            raise
        return folder

    def folder(self, record: ModelRecord) -> Path:
        """Return the folder of a model's files.

        Raises:
            IntegrityError: It is one of ours, and gone.
            MethodUnsupportedError: It has none: another server computes it.
        """
        require_here(record)
        if record.artifact is None:
            return Path(record.folder)
        try:
            return self._artifacts.folder(record.artifact)
        except NotFoundError:
            raise IntegrityError(f"the files of the model {record.name!r} are gone.") from None

    def _insert_folder(
        self,
        conn: Connection,
        project_id: str,
        name: str,
        checked: CheckedFolder,
        base: ModelRecord | None,
    ) -> ModelRecord:
        manifest = checked.manifest
        if base is not None:
            manifest = msgspec.structs.replace(manifest, base=base.digest)
        known = _find(conn, project_id, name)
        if known is not None:
            same = (checked.digest, str(checked.folder), manifest.base)
            if (known.digest, known.folder, manifest_of(known).base) == same:
                return known
            raise ConflictError(f"the name {name!r} belongs to another model.", param="id")
        record = ModelRecord(
            name=name,
            project_id=project_id,
            family=manifest.family,
            task=manifest.task,
            digest=checked.digest,
            folder=str(checked.folder),
            base_model=base.name if base else None,
            manifest=_json(manifest),
            created_at=self._clock.now(),
        )
        models.insert(conn, record)
        return record

    def _delete(self, conn: Connection, project_id: str, name: str) -> ModelRecord:
        record = models.get(conn, project_id, name)
        if any(job.base_model == name for job in _unfinished_jobs(conn, project_id)):
            raise InUseError(f"an unfinished job starts from the model {name!r}.")
        if any(manifest_of(made).base for made in _made_from(conn, project_id, name)):
            raise InUseError(f"an adapter needs the model {name!r}.")
        if serving := deployments.serving(conn, project_id, name):
            raise InUseError(f"the deployment {serving.name!r} serves the model {name!r}.")
        models.delete(conn, project_id, name)
        return record


def manifest_of(record: ModelRecord) -> ModelManifest:
    """Return the manifest that the record carries."""
    return msgspec.convert(record.manifest, ModelManifest)


def _require_base(record: ModelRecord, base: ModelRecord | None) -> ModelRecord:
    if base is None or base.digest != manifest_of(record).base:
        raise IntegrityError(f"the base of the model {record.name!r} is gone or has changed.")
    return base


def _json(manifest: ModelManifest) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(manifest))  # lists, no tuples
    return plain


def _unfinished_jobs(conn: Connection, project_id: str) -> Iterator[JobRecord]:
    for status in TRANSITIONS.keys() - TERMINAL:
        limit = LIMITS.queued_jobs
        yield from jobs.page(conn, project_id, after=None, limit=limit, status=status).items


def _made_from(conn: Connection, project_id: str, base: str) -> Iterator[ModelRecord]:
    after, has_more = None, True
    while has_more:
        page = models.page(conn, project_id, after=after, limit=LIMITS.page_items, base_model=base)
        yield from page.items
        has_more, after = page.has_more, page.items[-1].name if page.items else None


def _find(conn: Connection, project_id: str, name: str) -> ModelRecord | None:
    try:
        return models.get(conn, project_id, name)
    except ModelNotFoundError:
        return None
