from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Connection

from purvey.app.job_effects import JobEffects
from purvey.contracts.ids import DEFAULT_PROJECT, new_id
from purvey.contracts.jobs import TERMINAL, JobApi, JobFailed, JobKind
from purvey.contracts.records import DatasetRecord, FileRecord, JobRecord
from purvey.jobs.bell import Bell
from purvey.jobs.service import JobService
from purvey.jobs.supervisor import Supervisor
from purvey.registry.models import ModelRegistry
from purvey.store import datasets, files, ledger, projects
from purvey.store.artifacts import Artifacts
from purvey.store.blobs import Blobs
from purvey.store.database import Database
from purvey.testing import scripted_jobs
from purvey.testing.clock import FakeClock
from purvey.testing.model_folder import write_plausible_folder
from purvey.testing.scripted_jobs import ScriptedJobLauncher

PROJECT = DEFAULT_PROJECT
RECIPE = {"task": "text-classification", "name": "spam"}


@dataclass(kw_only=True)
class Bench:
    """Jobs with their real effects, run by scripts."""

    database: Database
    registry: ModelRegistry
    jobs: JobService
    launcher: ScriptedJobLauncher
    effects: JobEffects
    artifacts: Artifacts
    blobs: Blobs
    tmp_path: Path

    async def add_file(self, content: bytes) -> str:
        blob = self.blobs.put_bytes(content)
        record = FileRecord(
            id=new_id("file-"),
            project_id=PROJECT,
            name="rows.csv",
            purpose="user_data",
            num_bytes=blob.num_bytes,
            sha256=blob.sha256,
            created_at=0.0,
        )
        await self.database.write(lambda conn: files.insert(conn, record))
        return record.id

    async def start(
        self,
        *,
        api: JobApi = "training",
        kind: JobKind = "training",
        recipe: dict[str, Any] = RECIPE,
        **fields: Any,  # further fields of the job
    ) -> JobRecord:
        return await self.jobs.create(
            project_id=PROJECT,
            key_id="key_1",
            api=api,
            kind=kind,
            recipe=recipe,
            recipe_digest="0" * 64,
            **fields,
        )

    async def start_dataset(self, file_ids: tuple[str, ...]) -> tuple[str, JobRecord]:
        dataset_id = new_id("ds_")

        def beside(conn: Connection, job: JobRecord) -> None:
            record = DatasetRecord(
                id=dataset_id,
                project_id=PROJECT,
                name="rows",
                status="processing",
                config={},
                file_ids=file_ids,
                job_id=job.id,
                created_at=0.0,
            )
            datasets.insert(conn, record)

        job = await self.start(
            api="dataset", kind="dataset", recipe={}, dataset_id=dataset_id, beside=beside
        )
        return dataset_id, job

    async def ended(self, job: JobRecord) -> JobRecord:
        async for _ in self.jobs.follow(PROJECT, job.id):
            pass
        record = await self.jobs.get(PROJECT, job.id)
        assert record.status in TERMINAL
        return record

    async def dataset(self, dataset_id: str) -> DatasetRecord:
        return await self.database.read(lambda conn: datasets.get(conn, PROJECT, dataset_id))

    async def usage(self) -> dict[str, tuple[int, int]]:
        found = await self.database.read(lambda conn: ledger.totals(conn, PROJECT, by="kind"))
        return {total.group: (total.requests, total.rows) for total in found}


@pytest_asyncio.fixture
async def bench(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Bench]:
    database = Database.open(f"sqlite:///{tmp_path / 'p.db'}", clock=clock)
    await database.write(lambda conn: projects.ensure(conn, PROJECT, name="default", now=0.0))
    artifacts, blobs = Artifacts(tmp_path / "artifacts"), Blobs(tmp_path / "blobs")
    registry = ModelRegistry(database, artifacts, model_roots=[tmp_path], clock=clock)
    effects = JobEffects(
        blobs=blobs,
        artifacts=artifacts,
        registry=registry,
        module_roots=[tmp_path / "modules"],
        clock=clock,
    )
    bell, launcher = Bell(), ScriptedJobLauncher()
    supervisor = Supervisor(
        database=database,
        artifacts=artifacts,
        launcher=launcher,
        hooks=effects.hooks,
        bell=bell,
        clock=clock,
        folder=tmp_path / "jobs",
    )
    await supervisor.start()
    jobs = JobService(database, clock=clock, bell=bell, ended=effects.ended)
    yield Bench(
        database=database,
        registry=registry,
        jobs=jobs,
        launcher=launcher,
        effects=effects,
        artifacts=artifacts,
        blobs=blobs,
        tmp_path=tmp_path,
    )
    await supervisor.drain(timeout_s=5)
    database.close()


async def test_a_dataset_job_reads_its_files_and_readies_its_dataset(bench: Bench) -> None:
    file_id = await bench.add_file(b"a,b\n")
    dataset_id, job = await bench.start_dataset((file_id,))
    done = await bench.ended(job)
    assert done.status == "succeeded"
    (given,) = bench.launcher.launched[0].files
    assert (given.role, given.name) == ("source", "rows.csv")
    assert given.path == str(bench.blobs.path(given.sha256))
    assert given.num_bytes == len(b"a,b\n")
    dataset = await bench.dataset(dataset_id)
    assert dataset.status == "ready"
    assert dataset.artifact is not None
    bench.artifacts.verify(dataset.artifact)
    assert await bench.usage() == {"dataset": (1, 10)}


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_dataset_that_is_not_built_says_why(bench: Bench, *, is_cancelled: bool) -> None:
    failure = JobFailed(code="invalid_file", message="row 3 has no label", param="file_ids")
    bench.launcher.then(
        scripted_jobs.until_stopped if is_cancelled else scripted_jobs.fail(failure)
    )
    dataset_id, job = await bench.start_dataset(())
    if is_cancelled:
        await bench.jobs.cancel(PROJECT, job.id)
    done = await bench.ended(job)
    assert done.status == ("cancelled" if is_cancelled else "failed")
    dataset = await bench.dataset(dataset_id)
    assert dataset.status == "failed"
    assert dataset.error is not None
    assert dataset.error["code"] == ("cancelled" if is_cancelled else "invalid_file")
    assert (await bench.usage())["dataset"] == (1, 0)


async def test_a_trained_model_is_there_when_its_job_has_succeeded(bench: Bench) -> None:
    dataset_id, job = await bench.start_dataset(())
    await bench.ended(job)
    done = await bench.ended(await bench.start(dataset_id=dataset_id))
    assert (done.status, done.fine_tuned_model) == ("succeeded", "spam")
    spec = bench.launcher.launched[1]
    assert spec.dataset is not None
    assert spec.dataset.manifest.labels == ("ham", "spam")
    assert spec.module_roots == (str(bench.tmp_path / "modules"),)
    model = await bench.registry.get(PROJECT, "spam")
    assert (model.task, model.job_id) == ("text-classification", done.id)
    source = await bench.registry.source(model)
    assert source.folder == str(bench.artifacts.folder(model.digest))
    assert (await bench.usage())["training"] == (1, 30)
    assert done.result is not None
    assert done.result["report"]["accuracy"]["value"] == 1.0


async def test_a_name_that_is_taken_gets_the_job_behind_it(bench: Bench) -> None:
    names = [(await bench.ended(await bench.start())).fine_tuned_model for _ in range(2)]
    assert names[0] == "spam"
    assert names[1] is not None
    assert names[1].startswith("spam-")


async def test_a_fine_tuned_model_is_named_after_its_base(bench: Bench) -> None:
    base = write_plausible_folder(bench.tmp_path / "tiny")
    await bench.registry.register_folder(PROJECT, "org/tiny", base)
    file_id = await bench.add_file(b"{}\n")
    job = await bench.start(
        api="fine_tuning",
        recipe={"task": "text-generation"},
        base_model="org/tiny",
        training_file=file_id,
        suffix="docs",
    )
    done = await bench.ended(job)
    short = job.id.removeprefix("ftjob-")[:8]
    assert done.fine_tuned_model == f"ft:org-tiny:default:docs:{short}"
    spec = bench.launcher.launched[0]
    assert spec.base is not None
    assert spec.base.folder == str(base)
    assert [file.role for file in spec.files] == ["training"]
    again = await bench.ended(
        await bench.start(
            api="fine_tuning", recipe={"task": "text-generation"}, base_model=done.fine_tuned_model
        )
    )
    assert again.fine_tuned_model is not None
    assert again.fine_tuned_model.startswith("ft:org-tiny:default::")


@pytest.mark.row("CRA-27")
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"training_file": "file-gone"}, "not_found"),
        ({"dataset_id": "ds_gone"}, "not_found"),
        ({"base_model": "gone"}, "model_not_found"),
    ],
)
async def test_a_job_whose_input_is_gone_fails_and_says_so(
    bench: Bench, fields: dict[str, Any], code: str
) -> None:
    done = await bench.ended(await bench.start(**fields))
    assert done.status == "failed"
    assert done.error is not None
    assert done.error["code"] == code
    assert bench.launcher.launched == []
    assert (await bench.usage())["training"] == (1, 0)
