"""Creating, changing and deleting deployments: the database first, then what is known."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection

from purvey.contracts.clock import Clock
from purvey.contracts.deployment import DeploymentRecord, GenerationDefaults, Profile
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import GENERATING
from purvey.contracts.records import ModelRecord
from purvey.errors import (
    ConflictError,
    InvalidValueError,
    ModelNotFoundError,
    RateLimitedError,
)
from purvey.registry.deployments.directory import Directory
from purvey.registry.upstream_models import elsewhere
from purvey.store import models
from purvey.store.database import Database
from purvey.store.rows import Order, Page
from purvey.store.serving import deployments as rows


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a deployment said before, and what it says."""

    before: DeploymentRecord
    after: DeploymentRecord


class Deployments:
    """The deployments of every project. One for each database; one change at a time.

    Args:
        database: Where records live.
        directory: What is known of them; kept as the database says.
        clock: Source of times.
    """

    def __init__(self, database: Database, directory: Directory, *, clock: Clock) -> None:
        self.directory = directory
        self._database, self._clock = database, clock
        self._writing = asyncio.Lock()

    async def load(self) -> None:
        """Read all of them, once, at the start."""
        self.directory.put(await self._database.read(rows.every))

    async def page(
        self, project_id: str, *, after: str | None, limit: int, order: Order
    ) -> Page[DeploymentRecord]:
        """List a project's deployments."""
        return await self._database.read(
            lambda conn: rows.page(conn, project_id, after=after, limit=limit, order=order)
        )

    async def create(
        self,
        project_id: str,
        name: str,
        model: str,
        profiles: Mapping[str, Profile],
        *,
        beside: Callable[[Connection, DeploymentRecord], None],
    ) -> DeploymentRecord:
        """Create a deployment.

        Args:
            project_id: Whose.
            name: What requests name it by.
            model: What it serves.
            profiles: How, by name.
            beside: Writes that belong to it, made in its transaction.

        Raises:
            ModelNotFoundError: No such model, or another project's.
            ConflictError: The name is another deployment's, or another model's.
            InvalidValueError: A profile asks for what this kind of model does not do.
            RateLimitedError: The project has as many as it may have.
        """
        now = self._clock.now()
        record = DeploymentRecord(
            name=name,
            project_id=project_id,
            model=model,
            profiles=dict(profiles),
            created_at=now,
            updated_at=now,
        )

        def work(conn: Connection) -> None:
            _check(conn, record)
            if name != model and _is_model(conn, project_id, name):
                raise ConflictError(
                    f"the name {name!r} belongs to another model.",
                    param="id",
                    hint="A deployment is named as its own model is, or as no model is.",
                )
            if rows.count(conn, project_id) >= LIMITS.deployments:
                raise RateLimitedError(
                    f"the project has {LIMITS.deployments} deployments.", hint="Delete some."
                )
            rows.insert(conn, record)
            beside(conn, record)

        async with self._writing:
            await self._database.write(work)
            self.directory.put([record])
        return record

    async def update(
        self,
        project_id: str,
        name: str,
        *,
        model: str | None,
        profiles: Mapping[str, Profile | None],
    ) -> Change:
        """Change a deployment; the next request meets what it says then.

        Args:
            project_id: Whose.
            name: Which.
            model: What it serves; None leaves that as it is.
            profiles: Profiles to add or replace; None takes one away. Others stay.

        Raises:
            NotFoundError: No such deployment, or another project's.
            ModelNotFoundError: No such model, or another project's.
            InvalidValueError: A profile asks for what this kind of model does not do, or there
                are too many.
        """
        async with self._writing:
            before = self.directory.get(project_id, name)
            merged = {**before.profiles, **profiles}
            record = msgspec.structs.replace(
                before,
                model=before.model if model is None else model,
                profiles={key: value for key, value in merged.items() if value is not None},
                updated_at=self._clock.now(),
            )

            def work(conn: Connection) -> None:
                _check(conn, record)
                rows.update(conn, record)

            await self._database.write(work)
            self.directory.put([record])
        return Change(before=before, after=record)

    async def delete(self, project_id: str, name: str) -> DeploymentRecord:
        """Delete a deployment and return what it was; its model stays.

        Raises:
            NotFoundError: No such deployment, or another project's.
        """
        async with self._writing:
            record = self.directory.get(project_id, name)
            await self._database.write(lambda conn: rows.delete(conn, project_id, name))
            self.directory.remove(record)
        return record


def _check(conn: Connection, record: DeploymentRecord) -> None:
    if len(record.profiles) > LIMITS.profiles:
        raise InvalidValueError(
            f"a deployment has at most {LIMITS.profiles} profiles.", param="profiles"
        )
    model = models.get(conn, record.project_id, record.model)
    is_elsewhere = elsewhere(model) is not None
    what = "computed by another server" if is_elsewhere else f"for {model.task}"
    for name, profile in record.profiles.items():
        generates = model.task in GENERATING
        wrong = _wrong_for_generation(profile) if generates else _wrong_for_one_pass(profile)
        if is_elsewhere:
            wrong = wrong or _wrong_elsewhere(profile)
        if wrong is not None:
            raise InvalidValueError(
                f"the model {record.model!r} is {what}: its {wrong} cannot be chosen.",
                param=f"profiles.{name}.{wrong}",
            )
        if profile.adapter is not None:
            _check_adapter(conn, model, profile.adapter, param=f"profiles.{name}.adapter")


def _check_adapter(conn: Connection, model: ModelRecord, name: str, *, param: str) -> None:
    """Make sure that a profile's adapter lies on the deployment's model.

    Raises:
        ModelNotFoundError: No such model, or another project's.
        InvalidValueError: It is no adapter, or one of another base.
    """
    try:
        adapter = models.get(conn, model.project_id, name)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(error.message, param=param) from None
    if adapter.manifest.get("base") != model.digest or adapter.base_model != model.name:
        what = f"an adapter of {adapter.base_model!r}" if adapter.manifest.get("base") else "whole"
        raise InvalidValueError(
            f"the model {name!r} is no adapter of {model.name!r}: it is {what}.",
            param=param,
            hint="Name a model that was fine-tuned from the deployment's own, or registered on it.",
        )


def _wrong_for_generation(profile: Profile) -> str | None:
    return None if profile.batch_window_ms is None else "batch_window_ms"


def _wrong_for_one_pass(profile: Profile) -> str | None:
    if profile.precision not in {None, "auto", "fp32"}:
        return "precision"
    return "generation" if profile.generation != GenerationDefaults() else None


def _wrong_elsewhere(profile: Profile) -> str | None:
    if profile.precision is not None:
        return "precision"
    if profile.batch_window_ms is not None:
        return "batch_window_ms"
    if profile.keep_alive_s is not None:
        return "keep_alive_s"
    return "is_pinned" if profile.is_pinned else None


def _is_model(conn: Connection, project_id: str, name: str) -> bool:
    try:
        models.get(conn, project_id, name)
    except ModelNotFoundError:
        return False
    return True
