"""Training jobs: a recipe over a dataset becomes a model; events, metrics, report, actions."""

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
import pytest
from openai import OpenAI

from purvey.contracts.data import DATASET_MANIFEST_NAME, Column, DatasetManifest
from purvey.contracts.jobs import CheckpointSaved, DatasetBuilt, JobFailed
from purvey.testing import scripted_jobs
from purvey.testing.scripted_jobs import Conversation

if TYPE_CHECKING:
    from tests.api.conftest import Refusal, Until
    from tests.conftest import RunningServer

URL = "/v1/training/jobs"
ENDED = ("succeeded", "failed", "cancelled")


@pytest.fixture(autouse=True)
def _workers_succeed(api: "RunningServer") -> Iterator[None]:
    assert api.jobs is not None
    yield
    api.jobs.script = scripted_jobs.succeed


@pytest.fixture(scope="module")
def dataset(http: httpx2.Client, sdk: OpenAI, until: "Until") -> str:
    """A ready dataset of one text and one label column."""
    file = sdk.files.create(file=("rows.csv", b"text,label\nhi,ham\n"), purpose="user_data")
    made: str = http.post("/v1/datasets", json={"file_ids": [file.id]}).json()["id"]
    until(f"/v1/datasets/{made}", "ready")
    return made


@pytest.fixture
def start(http: httpx2.Client, dataset: str) -> Callable[..., dict[str, Any]]:
    """A function that starts a run of a text classifier."""

    def create(**recipe: object) -> dict[str, Any]:
        body = {
            "recipe": {"task": "text-classification", "dataset": dataset} | recipe,
            "metadata": {"who": "me"},
        }
        answer = http.post(URL, json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return create


Start = Callable[..., dict[str, Any]]


def test_a_run_makes_a_model_that_classifies(
    http: httpx2.Client, start: Start, until: "Until", dataset: str
) -> None:
    made = start(name="letters", seed=5)
    assert made["id"].startswith("job_")
    assert (made["object"], made["dataset"]) == ("training.job", dataset)
    assert made["metadata"] == {"who": "me"}
    assert made["recipe"]["seed"] == 5
    assert made["recipe"]["model"]["architecture"] == "text-ngrams", "defaults are written out"
    done = until(f"{URL}/{made['id']}", *ENDED)
    assert (done["status"], done["error"]) == ("succeeded", None)
    assert (done["model"], done["attempt"]) == ("letters", 1)
    assert done["report"]["accuracy"]["value"] == 1.0
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    assert done["compute_s"] > 0
    model = http.get("/v1/models/letters").json()
    assert (model["job_id"], model["labels"]) == (made["id"], ["ham", "spam"])


def test_the_digest_is_of_the_resolved_recipe(
    http: httpx2.Client, start: Start, until: "Until"
) -> None:
    made = start()
    body = {"recipe": made["recipe"]}
    resolved = http.post("/v1/recipes/validate", json=body).json()
    assert made["recipe_digest"] == resolved["digest"]
    until(f"{URL}/{made['id']}", *ENDED)


def test_metrics_are_the_events_that_hold_numbers(
    http: httpx2.Client, start: Start, until: "Until"
) -> None:
    made = start()
    until(f"{URL}/{made['id']}", *ENDED)
    events = http.get(f"{URL}/{made['id']}/events", params={"limit": 100}).json()["data"]
    metrics = http.get(f"{URL}/{made['id']}/metrics", params={"order": "asc"}).json()["data"]
    assert [m["data"]["step"] for m in metrics] == [1, 2, 3]
    assert {event["type"] for event in events} == {"message", "metrics"}
    assert {event["object"] for event in events} == {"training.job.event"}
    assert metrics == [event for event in reversed(events) if event["type"] == "metrics"]


def test_streamed_metrics_are_the_listed_ones(
    http: httpx2.Client, start: Start, until: "Until"
) -> None:
    made = start()
    until(f"{URL}/{made['id']}", *ENDED)
    url = f"{URL}/{made['id']}/metrics"
    listed = http.get(url, params={"order": "asc"}).json()["data"]
    *events, end = http.get(url, params={"stream": "true"}).text.strip().split("\n\n")
    assert [json.loads(event.partition("\ndata: ")[2]) for event in events] == listed
    assert end.startswith("event: done")


def test_events_come_in_pages(http: httpx2.Client, start: Start, until: "Until") -> None:
    made = start()
    until(f"{URL}/{made['id']}", *ENDED)
    url = f"{URL}/{made['id']}/events"
    all_of_them = http.get(url, params={"limit": 1_000}).json()["data"]
    found, after = [], None
    while True:
        page = http.get(url, params={"limit": 2} | ({"after": after} if after else {})).json()
        found += page["data"]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert found == all_of_them


def test_events_stream_until_the_end(http: httpx2.Client, start: Start, until: "Until") -> None:
    made = start()
    answer = http.get(f"{URL}/{made['id']}/events", params={"stream": "true"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *frames, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("event: done\ndata: {}", "")
    assert all(frame.startswith("event: job.event\ndata: {") for frame in frames)
    told = [json.loads(frame.partition("data: ")[2]) for frame in frames]
    listed = http.get(f"{URL}/{made['id']}/events", params={"limit": 100, "order": "asc"})
    assert told == listed.json()["data"]
    assert until(f"{URL}/{made['id']}", *ENDED)["status"] == "succeeded"


async def _checkpointing(worker: Conversation) -> int:
    for step in (10, 20):
        folder = f"{worker.spec.work_dir}/step-{step}"
        saved = CheckpointSaved(
            step=step, folder=folder, digest="0" * 64, metrics={"valid_loss": 1 / step}
        )
        worker.say(saved)
    return await scripted_jobs.succeed(worker)


def test_checkpoints_are_listed_newest_first(
    http: httpx2.Client, api: "RunningServer", start: Start, until: "Until"
) -> None:
    assert api.jobs is not None
    api.jobs.then(_checkpointing)
    made = start()
    until(f"{URL}/{made['id']}", "succeeded")
    page = http.get(f"{URL}/{made['id']}/checkpoints").json()
    assert [c["step_number"] for c in page["data"]] == [20, 10]
    assert page["data"][0]["object"] == "training.job.checkpoint"
    assert page["data"][0]["metrics"] == {"step": 20, "valid_loss": 0.05}
    assert str(api.data_dir) not in json.dumps(page), "folders are not shown"


def test_the_report_comes_with_success(
    http: httpx2.Client, api: "RunningServer", start: Start, until: "Until", refused: "Refusal"
) -> None:
    assert api.jobs is not None
    api.jobs.then(scripted_jobs.until_stopped)
    made = start()
    until(
        f"{URL}/{made['id']}", "running"
    )  # cancelled before, it would leave its script to the next
    refused(http.get(f"{URL}/{made['id']}/report"), 409, "state_conflict")
    http.post(f"{URL}/{made['id']}/cancel")
    until(f"{URL}/{made['id']}", "cancelled")
    again = start()
    until(f"{URL}/{again['id']}", "succeeded")
    report = http.get(f"{URL}/{again['id']}/report").json()
    assert (report["object"], report["job"]) == ("training.report", again["id"])
    assert report["metrics"]["accuracy"]["num_rows"] == 10


def test_a_run_is_paused_resumed_and_done(
    http: httpx2.Client, api: "RunningServer", start: Start, until: "Until", refused: "Refusal"
) -> None:
    assert api.jobs is not None
    api.jobs.then(scripted_jobs.until_stopped)
    launched = len(api.jobs.launched)
    url = f"{URL}/{start()['id']}"
    until(url, "running")
    refused(http.post(f"{url}/resume"), 409, "state_conflict")
    assert http.post(f"{url}/pause").status_code == 200
    until(url, "paused")
    refused(http.post(f"{url}/pause"), 409, "state_conflict")
    assert http.post(f"{url}/resume").json()["status"] == "queued"
    assert until(url, *ENDED)["status"] == "succeeded"
    assert len(api.jobs.launched) == launched + 2
    for action in ("cancel", "pause", "resume"):
        refused(http.post(f"{url}/{action}"), 409, "state_conflict")


def test_a_failed_run_says_why(
    http: httpx2.Client, api: "RunningServer", start: Start, until: "Until"
) -> None:
    assert api.jobs is not None
    failure = JobFailed(code="diverged", message="loss is nan at step 3", param="optimizer")
    api.jobs.then(scripted_jobs.fail(failure))
    failed = until(f"{URL}/{start()['id']}", *ENDED)
    assert failed["status"] == "failed"
    assert failed["error"] == {
        "code": "diverged",
        "message": failed["error"]["message"],
        "param": "optimizer",
    }
    assert "loss is nan" in failed["error"]["message"]
    assert failed["model"] is None


NET = {"architecture": "net.py:Net"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no task": ({"task": None}, "recipe.task"),
    "a misspelt section": ({"optimizr": {}}, "recipe.optimizr"),
    "a rate of nothing": ({"optimizer": {"learning_rate": 0}}, "recipe.optimizer.learning_rate"),
    "an absurd batch": ({"train": {"batch_size": 10**9}}, "recipe.train.batch_size"),
    "no dataset": ({"dataset": None}, "recipe.dataset"),
    "images from texts": ({"task": "image-classification", "model": NET}, "recipe.dataset"),
    "nothing to train": (
        {"task": "image-classification", "model": {"architecture": None}},
        "recipe.model",
    ),
    "a name that is a path": ({"name": "../x"}, "recipe.name"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_recipe_that_is_refused_starts_nothing(
    http: httpx2.Client, dataset: str, refused: "Refusal", name: str
) -> None:
    change, param = REFUSED[name]
    recipe = {"task": "text-classification", "dataset": dataset} | change
    before = http.get(URL).json()["first_id"]
    refused(http.post(URL, json={"recipe": recipe}), 400, "invalid_value", param)
    assert http.get(URL).json()["first_id"] == before


def test_what_a_recipe_names_must_exist(
    http: httpx2.Client, dataset: str, refused: "Refusal"
) -> None:
    recipe: dict[str, Any] = {"task": "text-classification", "dataset": "ds_none"}
    answer = http.post(URL, json={"recipe": recipe})
    refused(answer, 404, "not_found", "recipe.dataset")
    recipe = {"task": "text-generation", "dataset": dataset, "model": {"base": "none"}}
    answer = http.post(URL, json={"recipe": recipe})
    refused(answer, 404, "model_not_found", "recipe.model.base")


def test_only_an_administrator_names_a_module_by_its_path(
    api: "RunningServer",
    http: httpx2.Client,
    dataset: str,
    key_with: Callable[..., str],
    refused: "Refusal",
    until: "Until",
) -> None:
    model = {"architecture": "/srv/net.py:Net"}
    recipe = {"task": "text-classification", "dataset": dataset, "model": model}
    headers = {"authorization": f"Bearer {key_with('training:write')}"}
    answer = http.post(URL, json={"recipe": recipe}, headers=headers)
    refused(answer, 403, "insufficient_permissions", "recipe.model.architecture")
    made = http.post(URL, json={"recipe": recipe})
    assert made.status_code == 200
    until(f"{URL}/{made.json()['id']}", *ENDED)


@pytest.mark.row("CRA-27")
def test_a_dataset_that_an_unfinished_run_reads_is_kept(
    http: httpx2.Client,
    api: "RunningServer",
    start: Start,
    until: "Until",
    dataset: str,
    refused: "Refusal",
) -> None:
    assert api.jobs is not None
    api.jobs.then(scripted_jobs.until_stopped)
    made = start()
    message = refused(http.delete(f"/v1/datasets/{dataset}"), 409, "in_use")
    assert made["id"] in message
    http.post(f"{URL}/{made['id']}/cancel")
    until(f"{URL}/{made['id']}", "cancelled")


def test_the_two_resources_do_not_show_each_others_jobs(
    http: httpx2.Client, start: Start, until: "Until", refused: "Refusal"
) -> None:
    made = start()
    until(f"{URL}/{made['id']}", *ENDED)
    refused(http.get(f"/v1/fine_tuning/jobs/{made['id']}"), 404, "not_found", "job_id")
    listed = http.get("/v1/fine_tuning/jobs", params={"limit": 100}).json()["data"]
    assert made["id"] not in {job["id"] for job in listed}


def test_a_hyperparameter_that_no_process_can_hold_is_refused(
    http: httpx2.Client, dataset: str, refused: "Refusal"
) -> None:
    recipe = {"task": "text-classification", "dataset": dataset}
    for number in (2**64, -(2**63) - 1, 10**300):
        given = recipe | {"model": {"hyperparameters": {"sizes": [1, {"last": number}]}}}
        for path in (URL, "/v1/recipes/validate"):
            answer = http.post(path, json={"recipe": given})
            refused(answer, 400, "invalid_value", "recipe")
    assert http.get(URL).status_code == 200


async def _delivers_preferences(worker: Conversation) -> int:
    manifest = DatasetManifest(
        columns=(Column(name="preference", kind="preference"),),
        rows={"train": 8, "validation": 1, "test": 1},
        digest="0" * 64,
    )
    worker.write(DATASET_MANIFEST_NAME, msgspec.json.encode(manifest))
    worker.say(DatasetBuilt(manifest=manifest))
    return 0


def test_preferences_are_for_the_objective_that_learns_from_them(
    api: "RunningServer",
    http: httpx2.Client,
    sdk: OpenAI,
    dataset: str,
    echo: str,
    until: "Until",
    refused: "Refusal",
) -> None:
    assert api.jobs is not None
    api.jobs.then(_delivers_preferences)
    file = sdk.files.create(file=("pairs.jsonl", b"{}\n"), purpose="user_data")
    pairs = http.post("/v1/datasets", json={"file_ids": [file.id]}).json()["id"]
    until(f"/v1/datasets/{pairs}", "ready")

    def asked(dataset: str, objective: str) -> httpx2.Response:
        recipe = {
            "task": "text-generation",
            "dataset": dataset,
            "model": {"base": echo},
            "train": {"objective": objective},
        }
        return http.post(URL, json={"recipe": recipe})

    refused(asked(dataset, "dpo"), 400, "invalid_value", "recipe.dataset")
    said = refused(asked(pairs, "likelihood"), 400, "invalid_value", "recipe.dataset")
    assert "train.objective 'dpo'" in said
    assert asked(pairs, "dpo").status_code == 200


def test_vectors_are_learned_by_encoders_from_texts_that_belong_together(
    http: httpx2.Client, dataset: str, echo: str, refused: "Refusal"
) -> None:
    recipe: dict[str, Any] = {"task": "embedding", "dataset": dataset}
    said = refused(
        http.post(URL, json={"recipe": recipe | {"model": {"base": echo}}}),
        *(400, "invalid_value", "recipe.model.base"),
    )
    assert "no encoder" in said
    recipe["embedding"] = {"found": "nowhere"}
    refused(http.post(URL, json={"recipe": recipe}), 400, "invalid_value", "recipe.embedding.found")
    del recipe["embedding"]  # the dataset's label says what belongs together
    started = http.post(URL, json={"recipe": recipe})
    assert started.status_code == 200, started.text
    assert started.json()["recipe"]["model"]["architecture"] == "encoder"
