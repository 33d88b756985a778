"""Estimates over HTTP: asked of a worker, shown with the arithmetic, refused as a run is."""

from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
import pytest
from openai import OpenAI

from purvey.contracts.jobs import JobFailed
from purvey.testing.scripted_jobs import ESTIMATED, Conversation, crash, fail, succeed

if TYPE_CHECKING:
    from tests.api.conftest import Refusal, Until
    from tests.conftest import RunningServer

URL = "/v1/recipes/validate"


@pytest.fixture(scope="module")
def recipe(http: httpx2.Client, sdk: OpenAI, until: "Until") -> dict[str, Any]:
    file = sdk.files.create(file=("rows.csv", b"text,label\nhi,ham\n"), purpose="user_data")
    dataset = http.post("/v1/datasets", json={"file_ids": [file.id]}).json()["id"]
    until(f"/v1/datasets/{dataset}", "ready")
    return {"task": "text-classification", "dataset": dataset}


def test_needs_are_shown_with_their_sum_and_the_room_there_is(
    http: httpx2.Client, recipe: dict[str, Any], api: "RunningServer"
) -> None:
    found = http.post(URL, json={"recipe": recipe}).raise_for_status().json()["estimates"]
    memory = found["memory"]
    assert set(memory["parts"]) == {
        *("process", "data", "weights", "gradients", "optimizer", "copies", "activations"),
    }
    assert memory["total_bytes"] == sum(memory["parts"].values()) < memory["free_bytes"]
    assert memory["arithmetic"].startswith("process 300.0 MiB + data 1.0 MiB + weights 0.0 MiB + ")
    assert memory["arithmetic"].endswith(" = 301.1 MiB")
    assert (memory["fits"], found["disk"]["fits"]) == (True, True)
    assert found["time"] == {"steps": 3, "low_s": 0.1, "high_s": 0.3, "is_measured": True}
    assert api.jobs is not None
    assert api.jobs.launched[-1].kind == "estimate"
    assert http.get("/v1/training/jobs").json()["data"] == [], "nothing is stored"


def test_it_is_said_what_does_not_fit(
    http: httpx2.Client, recipe: dict[str, Any], api: "RunningServer"
) -> None:
    assert api.jobs is not None
    little = msgspec.structs.replace(ESTIMATED.memory, free_bytes=2**20)

    async def too_large(worker: Conversation) -> int:
        worker.say(msgspec.structs.replace(ESTIMATED, memory=little))
        return 0

    api.jobs.estimating = too_large
    found = http.post(URL, json={"recipe": recipe}).raise_for_status().json()["estimates"]
    assert (found["memory"]["fits"], found["disk"]["fits"]) == (False, True)


def test_nothing_is_estimated_without_data_or_against_the_callers_will(
    http: httpx2.Client, recipe: dict[str, Any], api: "RunningServer"
) -> None:
    assert api.jobs is not None
    before = len(api.jobs.launched)
    bodies = ({"recipe": {"task": "regression"}}, {"recipe": recipe, "estimate": False})
    for body in bodies:
        assert http.post(URL, json=body).raise_for_status().json()["estimates"] is None
    assert len(api.jobs.launched) == before


def test_what_the_run_would_fail_of_is_the_answer(
    http: httpx2.Client, recipe: dict[str, Any], api: "RunningServer", refused: "Refusal"
) -> None:
    assert api.jobs is not None
    where = "recipe.model.hyperparameters"
    api.jobs.estimating = fail(
        JobFailed(code="invalid_value", message="no such width.", param=where)
    )
    answer = http.post(URL, json={"recipe": recipe})
    assert "no such width." in refused(answer, 400, "invalid_value", where)
    api.jobs.estimating = crash
    refused(http.post(URL, json={"recipe": recipe}), 503, "worker_crashed")


def test_a_fine_tuning_job_is_estimated_from_its_files_before_it_is_made(
    http: httpx2.Client, sdk: OpenAI, echo: str, training_file: str, api: "RunningServer"
) -> None:
    assert api.jobs is not None
    api.jobs.estimating = succeed
    body = {
        "model": echo,
        "training_file": training_file,
        "validation_file": training_file,
        "hyperparameters": {"n_epochs": 2},
    }
    found: Any = sdk.post("/fine_tuning/validate", body=body, cast_to=object)
    asked = api.jobs.launched[-1]
    assert (asked.kind, asked.recipe) == ("estimate", found["recipe"])
    assert [file.role for file in asked.files] == ["training", "validation"]
    assert asked.base is not None
    assert found["recipe"]["train"]["epochs"] == 2
    assert found["estimates"]["parameters"] == ESTIMATED.parameters
    assert sdk.fine_tuning.jobs.list().data == [], "nothing is stored"


def test_what_the_job_would_be_refused_for_its_estimate_is(
    http: httpx2.Client, echo: str, training_file: str, api: "RunningServer", refused: "Refusal"
) -> None:
    assert api.jobs is not None
    before = len(api.jobs.launched)
    body = {"model": echo, "training_file": training_file}
    for change, status, code, param in (
        ({"training_file": "file-none"}, 404, "not_found", "training_file"),
        ({"recipe": {"optimiser": {}}}, 400, "invalid_value", "recipe.optimiser"),
        ({"method": {"type": "dpo"}}, 400, "invalid_file", "training_file"),
    ):
        refused(http.post("/v1/fine_tuning/validate", json=body | change), status, code, param)
    assert len(api.jobs.launched) == before


def test_a_dataset_for_another_task_is_refused_before_a_worker_starts(
    http: httpx2.Client, recipe: dict[str, Any], api: "RunningServer", refused: "Refusal"
) -> None:
    assert api.jobs is not None
    before = len(api.jobs.launched)
    answer = http.post(URL, json={"recipe": recipe | {"task": "image-classification"}})
    refused(answer, 400, "invalid_value", "recipe.dataset")
    assert len(api.jobs.launched) == before
