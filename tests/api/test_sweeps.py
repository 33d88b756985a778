"""Sweeps over HTTP: a space over a recipe becomes trials, the best of them a model."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import OpenAI

from purvey.contracts.jobs import ModelTrained
from purvey.testing import scripted_jobs
from purvey.testing.scripted_jobs import Conversation, deliver_model, search, until_stopped

if TYPE_CHECKING:
    from tests.api.conftest import Refusal, Until
    from tests.conftest import RunningServer

URL = "/v1/training/sweeps"
ENDED = ("succeeded", "failed", "cancelled")
SPACE = {"seed": {"values": [10, 900, 400]}}
Json = dict[str, Any]
Start = Callable[..., Json]


class _Valued(Conversation):
    """A conversation whose model is worth its seed."""

    def __init__(self, worker: Conversation) -> None:
        self._worker = worker
        super().__init__(worker.spec)

    def say(self, message: Any) -> None:
        if isinstance(message, ModelTrained):
            worth = self.spec.recipe["seed"] / 1_000
            message = ModelTrained(
                trained_rows=30,
                compute_s=1.5,
                report=message.report,
                validation={"macro_f1": worth, "valid_loss": 1 - worth},
            )
        self._worker.say(message)


async def by_seed(worker: Conversation) -> int:
    if worker.spec.kind == "sweep":
        return await search(worker)
    if worker.spec.kind == "training":
        worker.write("weights", str(worker.spec.recipe["seed"]).encode())
        deliver_model(_Valued(worker))
        return 0
    return await scripted_jobs.succeed(worker)


async def waiting(worker: Conversation) -> int:
    return await (search if worker.spec.kind == "sweep" else until_stopped)(worker)


@pytest.fixture(autouse=True)
def _workers(api: "RunningServer") -> Iterator[None]:
    assert api.jobs is not None
    api.jobs.script = by_seed
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
def body(dataset: str) -> Callable[..., Json]:
    """A function that returns a good request with some changes."""

    def make(*, name: str | None = None, **changes: object) -> Json:
        recipe = {"task": "text-classification", "dataset": dataset}
        named = recipe | ({"name": name} if name else {})
        return {"recipe": named, "space": SPACE, "max_trials": 3} | changes

    return make


@pytest.fixture
def start(http: httpx2.Client, body: Callable[..., Json]) -> Start:
    def create(**changes: Any) -> Json:
        answer = http.post(URL, json=body(**changes))
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    return create


def test_a_sweep_registers_its_best_trial_under_the_recipes_name(
    http: httpx2.Client, start: Start, until: "Until", dataset: str
) -> None:
    made = start(name="swept", metadata={"who": "me"})
    assert made["id"].startswith("sweep_")
    assert (made["object"], made["dataset"], made["trials"]) == ("training.sweep", dataset, [])
    assert (made["metric"], made["direction"]) == ("macro_f1", "maximize")
    assert (made["pruner"], made["keep"], made["parallel"]) == ("median", "best", 1)
    done = until(f"{URL}/{made['id']}", *ENDED)
    assert (done["status"], done["error"], done["model"]) == ("succeeded", None, "swept")
    trials = done["trials"]
    assert [trial["value"] for trial in trials] == [0.01, 0.9, 0.4]
    assert [trial["parameters"] for trial in trials] == [{"seed": s} for s in (10, 900, 400)]
    assert [trial["model"] for trial in trials] == [None, "swept", None]
    assert done["best"] == {
        "trial": 1,
        "job": trials[1]["job"],
        "value": 0.9,
        "parameters": {"seed": 900},
    }
    assert done["report"]["accuracy"]["value"] == 1.0
    assert done["compute_s"] == pytest.approx(sum(trial["compute_s"] for trial in trials))
    model = http.get("/v1/models/swept").json()
    assert model["job_id"] == trials[1]["job"]
    run = http.get(f"/v1/training/jobs/{trials[1]['job']}").json()
    assert (run["sweep"], run["metadata"], run["recipe"]["seed"]) == (
        made["id"],
        {"who": "me"},
        900,
    )
    listed = http.get(URL).json()["data"][0]
    assert (listed["id"], listed["trials"], listed["best"]) == (made["id"], None, done["best"])


def test_no_other_model_is_left_unless_all_are_asked_for(
    http: httpx2.Client, start: Start, until: "Until", api: "RunningServer"
) -> None:
    before = {model["id"] for model in http.get("/v1/models").json()["data"]}
    folders = set((api.data_dir / "artifacts").iterdir())
    done = until(f"{URL}/{start(name='one')['id']}", *ENDED)
    assert done["status"] == "succeeded"
    assert {model["id"] for model in http.get("/v1/models").json()["data"]} - before == {"one"}
    assert len(set((api.data_dir / "artifacts").iterdir()) - folders) <= 1
    until(f"{URL}/{start(name='each', keep='all')['id']}", *ENDED)
    after = {model["id"] for model in http.get("/v1/models").json()["data"]} - before
    assert after == {"one", "each", "each-trial-0", "each-trial-1", "each-trial-2"}


def test_a_sweep_may_minimize(start: Start, until: "Until") -> None:
    made = start(metric="valid_loss")
    assert made["direction"] == "minimize"
    done = until(f"{URL}/{made['id']}", *ENDED)
    assert done["best"]["value"] == pytest.approx(0.1)
    done = until(f"{URL}/{start(direction='minimize')['id']}", *ENDED)
    assert done["best"]["parameters"] == {"seed": 10}


def test_its_events_tell_each_trial_and_stream(
    http: httpx2.Client, start: Start, until: "Until"
) -> None:
    made = start()
    streamed = http.get(f"{URL}/{made['id']}/events", params={"stream": "true"}).text
    assert streamed.endswith("event: done\ndata: {}\n\n")
    until(f"{URL}/{made['id']}", *ENDED)
    listed = http.get(f"{URL}/{made['id']}/events", params={"limit": 100}).json()["data"]
    assert [e["data"]["trial"] for e in reversed(listed) if e["type"] == "metrics"] == [0, 1, 2]
    assert all(event["id"] in streamed for event in listed)


def test_cancelling_ends_the_trials(
    http: httpx2.Client, start: Start, until: "Until", api: "RunningServer"
) -> None:
    assert api.jobs is not None
    api.jobs.script = waiting
    made = start()
    until(f"{URL}/{made['id']}", "running")
    _until_trials(http, made["id"], 1)
    answer = http.post(f"{URL}/{made['id']}/cancel")
    assert answer.status_code == 200, answer.text
    done = until(f"{URL}/{made['id']}", *ENDED)
    assert (done["status"], done["model"]) == ("cancelled", None)
    [trial] = done["trials"]
    assert until(f"/v1/training/jobs/{trial['job']}", *ENDED)["status"] == "cancelled"
    assert http.post(f"{URL}/{made['id']}/cancel").status_code == 409


def _until_trials(http: httpx2.Client, sweep_id: str, count: int) -> None:
    stream = http.stream("GET", f"{URL}/{sweep_id}/events", params={"stream": "true"})
    with stream as answer:
        seen = 0
        for line in answer.iter_lines():
            seen += " begins: " in line
            if seen == count:
                return
    raise AssertionError("the sweep ended before")


def test_a_dataset_in_use_by_a_sweep_stays(
    http: httpx2.Client, start: Start, until: "Until", api: "RunningServer", dataset: str
) -> None:
    assert api.jobs is not None
    api.jobs.script = waiting
    made = start()
    assert http.delete(f"/v1/datasets/{dataset}").status_code == 409
    http.post(f"{URL}/{made['id']}/cancel").raise_for_status()
    until(f"{URL}/{made['id']}", *ENDED)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"space": {"optimizer.lerning_rate": {"low": 0.1, "high": 0.2}}},
         "space.optimizer.lerning_rate"),
        ({"space": {"train.batch_size": {"values": [8, "many"]}}}, "space.train.batch_size"),
        ({"space": {"task": {"values": ["embedding"]}}}, "space.task"),
        ({"space": {}}, "space"),
        ({"max_trials": 4}, "max_trials"),
        ({"parallel": 9}, "parallel"),
        ({"metric": "learning_rate"}, "metric"),
        ({"direction": "sideways"}, "direction"),
        ({"pruner": "axe"}, "pruner"),
        ({"recipe": {"task": "poetry"}}, "recipe.task"),
        ({"recipe": {"task": "text-classification"}}, "recipe.dataset"),
        ({"trials": 3}, "trials"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_by_its_field(
    http: httpx2.Client,
    body: Callable[..., Json],
    refused: "Refusal",
    changes: Json,
    param: str,
) -> None:
    before = http.get(URL).json()["data"]
    refused(http.post(URL, json=body(**changes)), 400, "invalid_value", param)
    assert http.get(URL).json()["data"] == before


def test_a_misspelt_field_is_answered_with_the_nearest(
    http: httpx2.Client, body: Callable[..., Json], refused: "Refusal"
) -> None:
    space = {"optimizer.lerning_rate": {"low": 0.1, "high": 0.2}}
    answer = http.post(URL, json=body(space=space))
    told = refused(answer, 400, "invalid_value", "space.optimizer.lerning_rate")
    assert "learning_rate" in told


def test_a_budget_that_cannot_hold_the_trials_is_refused_with_the_arithmetic(
    http: httpx2.Client, body: Callable[..., Json], refused: "Refusal", dataset: str
) -> None:
    recipe = {"task": "text-classification", "dataset": dataset, "train": {"max_minutes": 20}}
    answer = http.post(URL, json=body(recipe=recipe, max_minutes=30))
    told = refused(answer, 400, "invalid_value", "max_minutes")
    assert "3 x 20 = 60 minutes" in told


def test_code_by_its_path_is_an_administrators_alone(
    http: httpx2.Client, api: "RunningServer", body: Callable[..., Json], key_with: Any
) -> None:
    key = key_with("training:write", "training:read")
    space = {"model.architecture": {"values": ["text-ngrams", "/etc/net.py:Net"]}}
    answer = httpx2.post(
        f"{api.base_url}{URL}",
        json=body(space=space, max_trials=2),
        headers={"authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 403, answer.text


def test_the_same_key_makes_one_sweep(
    http: httpx2.Client, body: Callable[..., Json], until: "Until"
) -> None:
    headers = {"Idempotency-Key": "sweep-once"}
    first, second = (http.post(URL, json=body(), headers=headers).json() for _ in range(2))
    assert first == second
    until(f"{URL}/{first['id']}", *ENDED)


def test_a_sweep_is_no_training_job_and_its_trials_are(
    http: httpx2.Client, start: Start, until: "Until", stranger: httpx2.Client
) -> None:
    made = start()
    done = until(f"{URL}/{made['id']}", *ENDED)
    assert http.get(f"/v1/training/jobs/{made['id']}").status_code == 404
    assert http.get(f"{URL}/{done['trials'][0]['job']}").status_code == 404
    assert stranger.get(f"{URL}/{made['id']}").status_code == 404
    assert stranger.get(URL).json()["data"] == []
    ours = {job["id"] for job in http.get("/v1/training/jobs").json()["data"]}
    assert {trial["job"] for trial in done["trials"]} <= ours
