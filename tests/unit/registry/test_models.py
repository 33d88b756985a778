from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection

from purvey.contracts.ids import DEFAULT_PROJECT, new_id
from purvey.contracts.model import MANIFEST_NAME, ModelManifest
from purvey.contracts.records import JobRecord, ModelRecord
from purvey.errors import (
    ConflictError,
    IntegrityError,
    InUseError,
    InvalidValueError,
    ModelNotFoundError,
)
from purvey.registry.models import ModelRegistry, manifest_of
from purvey.store import jobs, projects
from purvey.store.artifacts import Artifact, Artifacts
from purvey.store.database import Database
from purvey.testing.clock import FakeClock
from purvey.testing.model_folder import write_plausible_folder

PROJECT, OTHER = DEFAULT_PROJECT, "proj_other"


@pytest.fixture
def database(tmp_path: Path, clock: FakeClock) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'p.db'}", clock=clock)

    def add_projects(conn: Connection) -> None:
        for project in (PROJECT, OTHER):
            projects.ensure(conn, project, name=project, now=0.0)

    opened.write_now(add_projects)
    yield opened
    opened.close()


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


@pytest.fixture
def registry(
    database: Database, artifacts: Artifacts, tmp_path: Path, clock: FakeClock
) -> ModelRegistry:
    return ModelRegistry(database, artifacts, model_roots=[tmp_path / "roots"], clock=clock)


@pytest.fixture
async def base(registry: ModelRegistry, tmp_path: Path) -> ModelRecord:
    folder = write_plausible_folder(tmp_path / "roots" / "base")
    return await registry.register_folder(PROJECT, "base", folder)


def _job(**fields: Any) -> JobRecord:
    return JobRecord(
        id=new_id("ftjob-"),
        project_id=PROJECT,
        key_id="key_1",
        api="fine_tuning",
        kind="training",
        status="queued",
        created_at=0.0,
        recipe={},
        recipe_digest="",
        **fields,
    )


def _artifact(artifacts: Artifacts, folder: Path, manifest: ModelManifest) -> Artifact:
    folder.mkdir(parents=True)
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    return artifacts.publish(folder)


async def test_a_registered_folder_is_found_by_its_project_alone(
    registry: ModelRegistry, base: ModelRecord, tmp_path: Path
) -> None:
    assert await registry.get(PROJECT, "base") == base
    assert base.folder == str(tmp_path / "roots" / "base")
    with pytest.raises(ModelNotFoundError) as foreign:
        await registry.get(OTHER, "base")
    with pytest.raises(ModelNotFoundError) as missing:
        await registry.get(OTHER, "none")
    assert foreign.value.text == missing.value.text.replace("none", "base")
    assert [record.name for record in (await registry.page(PROJECT)).items] == ["base"]
    assert (await registry.page(OTHER)).items == []


async def test_registering_again_is_the_same_registration(
    registry: ModelRegistry, base: ModelRecord, tmp_path: Path
) -> None:
    same = await registry.register_folder(PROJECT, "base", tmp_path / "roots" / "base")
    assert same == base
    other = write_plausible_folder(tmp_path / "roots" / "other")
    with pytest.raises(ConflictError) as caught:
        await registry.register_folder(PROJECT, "base", other)
    assert caught.value.param == "id"
    with pytest.raises(InvalidValueError):
        await registry.register_folder(PROJECT, "new", tmp_path)


async def test_a_deleted_model_is_gone_at_once(registry: ModelRegistry, base: ModelRecord) -> None:
    await registry.get(PROJECT, base.name)
    await registry.delete(PROJECT, base.name)
    with pytest.raises(ModelNotFoundError):
        await registry.get(PROJECT, base.name)
    with pytest.raises(ModelNotFoundError):
        await registry.delete(PROJECT, base.name)


@pytest.mark.row("CRA-27")
async def test_a_model_that_a_job_starts_from_stays(
    registry: ModelRegistry, database: Database, base: ModelRecord
) -> None:
    job = _job(base_model=base.name)
    await database.write(lambda conn: jobs.insert(conn, job))
    with pytest.raises(InUseError):
        await registry.delete(PROJECT, base.name)
    await database.write(lambda conn: jobs.move(conn, job.id, to="cancelled", now=0.0))
    await registry.delete(PROJECT, base.name)


@pytest.mark.row("FIL-17")
async def test_an_adapter_brings_its_base_and_keeps_it(
    registry: ModelRegistry,
    database: Database,
    artifacts: Artifacts,
    base: ModelRecord,
    tmp_path: Path,
) -> None:
    manifest = ModelManifest(family="decoder", task="text-generation", base=base.digest)
    artifact = _artifact(artifacts, tmp_path / "out", manifest)

    def register(conn: Connection) -> ModelRecord:
        job = _job(base_model=base.name, suffix="x")
        return registry.register_trained(conn, job, manifest, artifact, base)

    adapter = await database.write(register)
    source = await registry.source(adapter)
    assert source.folder == str(artifact.folder)
    assert source.base_folder == base.folder
    assert manifest_of(adapter) == manifest
    with pytest.raises(InUseError):
        await registry.delete(PROJECT, base.name)
    await registry.delete(PROJECT, adapter.name)
    await registry.delete(PROJECT, base.name)
    with pytest.raises(IntegrityError):
        await registry.source(adapter)


@pytest.mark.row("FIL-19")
async def test_a_stored_model_whose_bytes_changed_is_not_handed_out(
    registry: ModelRegistry, database: Database, artifacts: Artifacts, tmp_path: Path
) -> None:
    manifest = ModelManifest(family="text-ngrams", task="text-classification", labels=("a", "b"))
    artifact = _artifact(artifacts, tmp_path / "out", manifest)
    record = await database.write(
        lambda conn: registry.register_trained(conn, _job(), manifest, artifact, None)
    )
    assert (await registry.source(record)).digest == artifact.digest
    with (artifact.folder / MANIFEST_NAME).open("ab") as file:
        file.write(b" ")
    with pytest.raises(IntegrityError):
        await registry.source(record)
