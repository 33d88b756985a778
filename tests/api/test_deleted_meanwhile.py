"""What a job names may be deleted between the check and the job; the answer is the same 404."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import OpenAI
from sqlalchemy import Connection

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.records import JobRecord
from purvey.store import datasets, files, models
from purvey.testing import scripted_jobs

if TYPE_CHECKING:
    from tests.api.conftest import Refusal, Until
    from tests.conftest import RunningServer

pytestmark = pytest.mark.row("CRA-27")
Meanwhile = Callable[[Callable[[Connection], None]], None]


@pytest.fixture
def meanwhile(api: "RunningServer", monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """A function that has a write happen just before the next job is created."""
    services = api.application.services
    create = services.jobs.create

    def have(work: Callable[[Connection], None]) -> None:
        async def after_it(**draft: Any) -> JobRecord:  # as `create`
            await services.database.write(work)
            return await create(**draft)

        monkeypatch.setattr(services.jobs, "create", after_it)

    return have


@pytest.fixture
def file_id(sdk: OpenAI) -> str:
    return sdk.files.create(file=("rows.csv", b"text,label\nhi,ham\n"), purpose="user_data").id


@pytest.mark.parametrize("role", ["training_file", "validation_file"])
def test_a_file_of_a_fine_tuning_job(
    http: httpx2.Client,
    sdk: OpenAI,
    echo: str,
    chat_rows: bytes,
    training_file: str,
    meanwhile: Meanwhile,
    refused: "Refusal",
    role: str,
) -> None:
    gone = sdk.files.create(file=("rows.jsonl", chat_rows), purpose="fine-tune").id
    meanwhile(lambda conn: files.delete(conn, DEFAULT_PROJECT, gone))
    body = {"model": echo, "training_file": training_file} | {role: gone}
    refused(http.post("/v1/fine_tuning/jobs", json=body), 404, "not_found", role)
    assert sdk.fine_tuning.jobs.list().data == []


def test_the_base_of_a_fine_tuning_job(
    http: httpx2.Client,
    register: Callable[..., str],
    training_file: str,
    meanwhile: Meanwhile,
    refused: "Refusal",
) -> None:
    base = register("leaving")
    meanwhile(lambda conn: models.delete(conn, DEFAULT_PROJECT, base))
    body = {"model": base, "training_file": training_file}
    refused(http.post("/v1/fine_tuning/jobs", json=body), 404, "model_not_found", "model")


def test_the_base_of_a_job_stays_until_the_job_has_ended(
    http: httpx2.Client,
    api: "RunningServer",
    register: Callable[..., str],
    training_file: str,
    until: "Until",
    refused: "Refusal",
) -> None:
    assert api.jobs is not None
    base = register("needed")
    api.jobs.then(scripted_jobs.until_stopped)
    body = {"model": base, "training_file": training_file}
    path = f"/v1/fine_tuning/jobs/{http.post('/v1/fine_tuning/jobs', json=body).json()['id']}"
    refused(http.delete(f"/v1/models/{base}"), 409, "in_use")
    until(path, "running")
    refused(http.delete(f"/v1/models/{base}"), 409, "in_use")
    http.post(f"{path}/pause").raise_for_status()
    until(path, "paused")
    refused(http.delete(f"/v1/models/{base}"), 409, "in_use")
    http.post(f"{path}/cancel").raise_for_status()
    http.delete(f"/v1/models/{base}").raise_for_status()


def test_a_source_of_a_dataset(
    http: httpx2.Client, file_id: str, meanwhile: Meanwhile, refused: "Refusal"
) -> None:
    before = http.get("/v1/datasets").json()["data"]
    meanwhile(lambda conn: files.delete(conn, DEFAULT_PROJECT, file_id))
    answer = http.post("/v1/datasets", json={"file_ids": [file_id]})
    refused(answer, 404, "not_found", "file_ids.0")
    assert http.get("/v1/datasets").json()["data"] == before


def test_the_dataset_of_a_run(
    http: httpx2.Client, file_id: str, until: "Until", meanwhile: Meanwhile, refused: "Refusal"
) -> None:
    made = http.post("/v1/datasets", json={"file_ids": [file_id]}).json()["id"]
    until(f"/v1/datasets/{made}", "ready")
    meanwhile(lambda conn: datasets.delete(conn, DEFAULT_PROJECT, made))
    recipe = {"task": "text-classification", "dataset": made}
    answer = http.post("/v1/training/jobs", json={"recipe": recipe})
    refused(answer, 404, "not_found", "recipe.dataset")
    assert http.get("/v1/training/jobs").json()["data"] == []
