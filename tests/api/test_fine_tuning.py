"""Fine-tuning through the official client: from the file to the model that answers."""

import json
import time
from collections.abc import Callable, Iterator
from threading import Event
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import BadRequestError, ConflictError, NotFoundError, OpenAI
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from purvey.contracts.jobs import CheckpointSaved, JobEvent, JobFailed
from purvey.testing import scripted_jobs
from purvey.testing.scripted_jobs import Conversation

if TYPE_CHECKING:
    from tests.api.conftest import Refusal
    from tests.conftest import RunningServer

ENDED = {"succeeded", "failed", "cancelled"}


def wait_for(sdk: OpenAI, job_id: str, *statuses: str) -> FineTuningJob:
    """Wait until a job has one of the statuses."""
    deadline, pause = time.monotonic() + 20, Event()
    while True:
        job = sdk.fine_tuning.jobs.retrieve(job_id)
        if job.status in statuses:
            return job
        assert job.status not in ENDED, job.error
        assert time.monotonic() < deadline, job.status
        pause.wait(0.01)


@pytest.fixture(autouse=True)
def _in_peace(api: "RunningServer", sdk: OpenAI) -> Iterator[None]:
    """Each test begins with no job under way and workers that succeed."""
    assert api.jobs is not None
    yield
    api.jobs.script = scripted_jobs.succeed
    for job in sdk.fine_tuning.jobs.list(limit=10).data:
        if job.status not in ENDED:
            wait_for(sdk, job.id, *ENDED)


def test_a_job_runs_and_its_model_answers(sdk: OpenAI, echo: str, training_file: str) -> None:
    made = sdk.fine_tuning.jobs.create(
        model=echo, training_file=training_file, suffix="docs", seed=7, metadata={"a": "b"}
    )
    FineTuningJob.model_validate(made.to_dict())
    assert made.id.startswith("ftjob-")
    assert (made.model, made.training_file, made.seed) == (echo, training_file, 7)
    assert made.metadata == {"a": "b"}
    job = wait_for(sdk, made.id, "succeeded")
    FineTuningJob.model_validate(job.to_dict())
    name = job.fine_tuned_model
    assert name is not None
    assert name.startswith(f"ft:{echo}:")
    assert ":docs:" in name
    assert job.trained_tokens == 120
    assert job.finished_at is not None
    assert name in {model.id for model in sdk.models.list()}
    answer = sdk.chat.completions.create(
        model=name, messages=[{"role": "user", "content": "hello"}]
    )
    assert answer.choices[0].message.content == "hello"


def test_events_are_a_gapless_story_newest_first(
    sdk: OpenAI, echo: str, training_file: str
) -> None:
    made = sdk.fine_tuning.jobs.create(model=echo, training_file=training_file)
    wait_for(sdk, made.id, "succeeded")
    events = list(sdk.fine_tuning.jobs.list_events(made.id, limit=2))
    for event in events:
        FineTuningJobEvent.model_validate(event.to_dict())
    messages = [event.message for event in reversed(events)]
    assert messages[0] == "The job is queued."
    assert [m for m in messages if m.startswith("Step")] == ["Step 1/3", "Step 2/3", "Step 3/3"]
    metrics = next(event for event in events if event.type == "metrics")
    assert isinstance(metrics.data, dict)
    assert metrics.data["total_steps"] == 3


def test_jobs_are_listed_newest_first(sdk: OpenAI, echo: str, training_file: str) -> None:
    made = [
        sdk.fine_tuning.jobs.create(model=echo, training_file=training_file).id for _ in range(3)
    ]
    assert [job.id for job in sdk.fine_tuning.jobs.list(limit=2)][:3] == made[::-1]


async def _saves_a_checkpoint(worker: Conversation) -> int:
    saved = CheckpointSaved(
        step=2, folder=worker.spec.work_dir, digest="0" * 64, metrics={"train_loss": 0.5}
    )
    worker.say(saved)
    scripted_jobs.deliver_model(worker)
    return 0


def test_checkpoints_have_every_field_of_the_sdk(
    api: "RunningServer", sdk: OpenAI, echo: str, training_file: str
) -> None:
    assert api.jobs is not None
    api.jobs.then(_saves_a_checkpoint)
    made = sdk.fine_tuning.jobs.create(model=echo, training_file=training_file)
    wait_for(sdk, made.id, "succeeded")
    (checkpoint,) = sdk.fine_tuning.jobs.checkpoints.list(made.id)
    FineTuningJobCheckpoint.model_validate(checkpoint.to_dict())
    assert (checkpoint.step_number, checkpoint.fine_tuning_job_id) == (2, made.id)
    assert checkpoint.metrics.train_loss == 0.5


def test_a_job_is_paused_resumed_and_cancelled(
    api: "RunningServer", sdk: OpenAI, echo: str, training_file: str
) -> None:
    assert api.jobs is not None
    api.jobs.script = scripted_jobs.until_stopped
    made = sdk.fine_tuning.jobs.create(model=echo, training_file=training_file)
    wait_for(sdk, made.id, "running")
    sdk.fine_tuning.jobs.pause(made.id)
    wait_for(sdk, made.id, "paused")
    sdk.fine_tuning.jobs.resume(made.id)
    wait_for(sdk, made.id, "running")
    sdk.fine_tuning.jobs.cancel(made.id)
    job = wait_for(sdk, made.id, "cancelled")
    assert job.fine_tuned_model is None


def test_an_ended_job_cannot_be_changed(sdk: OpenAI, echo: str, training_file: str) -> None:
    made = sdk.fine_tuning.jobs.create(model=echo, training_file=training_file)
    wait_for(sdk, made.id, "succeeded")
    jobs = sdk.fine_tuning.jobs
    for action in (jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(ConflictError) as raised:
            action(made.id)
        assert raised.value.code == "state_conflict"
        assert raised.value.response.headers["x-should-retry"] == "false"


def test_a_failed_job_says_why(
    api: "RunningServer", sdk: OpenAI, echo: str, training_file: str
) -> None:
    assert api.jobs is not None
    why = JobFailed(code="diverged", message="the loss is not finite.", param="recipe.optimizer")
    api.jobs.then(scripted_jobs.fail(why))
    made = sdk.fine_tuning.jobs.create(model=echo, training_file=training_file)
    job = wait_for(sdk, made.id, "failed")
    FineTuningJob.model_validate(job.to_dict())
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("diverged", "recipe.optimizer")


async def _tells_and_waits(worker: Conversation) -> int:
    worker.say(JobEvent(message="Half of it is done."))
    return await scripted_jobs.until_stopped(worker)


def test_events_stream_as_they_come_until_the_end(
    api: "RunningServer", http: httpx2.Client, sdk: OpenAI, echo: str, training_file: str
) -> None:
    assert api.jobs is not None
    api.jobs.then(_tells_and_waits)
    made = sdk.fine_tuning.jobs.create(model=echo, training_file=training_file)
    path = f"/v1/fine_tuning/jobs/{made.id}/events"
    seen: list[str] = []
    with http.stream("GET", path, params={"stream": "true"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            seen.append(line)
            if "Half of it is done." in line:
                sdk.fine_tuning.jobs.cancel(made.id)
    assert seen[-3:] == ["event: done", "data: {}", ""]
    events = [json.loads(line[6:]) for line in seen if line.startswith('data: {"id')]
    assert events[0]["message"] == "The job is queued."
    assert sdk.fine_tuning.jobs.retrieve(made.id).status == "cancelled"


def test_hyperparameters_reach_the_recipe_wherever_they_are_given(
    http: httpx2.Client, sdk: OpenAI, echo: str, training_file: str
) -> None:
    chosen: Any = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
    places: list[Any] = [
        {"hyperparameters": chosen},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": chosen}}},
    ]
    auto = sdk.fine_tuning.jobs.create(model=echo, training_file=training_file)
    usual = http.get(f"/v1/fine_tuning/jobs/{auto.id}").json()["recipe"]
    assert usual["train"]["method"] == "lora"
    for place in places:
        job = sdk.fine_tuning.jobs.create(model=echo, training_file=training_file, **place)
        assert job.hyperparameters.n_epochs == 2
        recipe = http.get(f"/v1/fine_tuning/jobs/{job.id}").json()["recipe"]
        assert (recipe["train"]["epochs"], recipe["train"]["batch_size"]) == (2, 4)
        rate = usual["optimizer"]["learning_rate"]
        assert recipe["optimizer"]["learning_rate"] == pytest.approx(rate / 2)


def test_a_partial_recipe_goes_over_the_defaults(
    http: httpx2.Client, sdk: OpenAI, echo: str, training_file: str
) -> None:
    recipe = {"train": {"method": "full"}, "optimizer": {"name": "sgd", "learning_rate": 0.1}}
    job = sdk.fine_tuning.jobs.create(
        model=echo, training_file=training_file, extra_body={"recipe": recipe}
    )
    resolved = http.get(f"/v1/fine_tuning/jobs/{job.id}").json()["recipe"]
    assert resolved["train"]["method"] == "full"
    assert resolved["optimizer"]["name"] == "sgd"
    assert resolved["model"]["base"] == echo


RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": ({"optimiser": {}}, "recipe.optimiser"),
    "misspelt deep": ({"optimizer": {"learning_rat": 1}}, "recipe.optimizer.learning_rat"),
    "rate nan": ({"optimizer": {"learning_rate": "nan"}}, "recipe.optimizer.learning_rate"),
    "rate inf": ({"optimizer": {"learning_rate": "inf"}}, "recipe.optimizer.learning_rate"),
    "rate 1e30": ({"optimizer": {"learning_rate": 1e30}}, "recipe.optimizer.learning_rate"),
    "rate -1": ({"optimizer": {"learning_rate": -1}}, "recipe.optimizer.learning_rate"),
    "batch of 10^9": ({"train": {"batch_size": 10**9}}, "recipe.train.batch_size"),
    "10^9 epochs": ({"train": {"epochs": 10**9}}, "recipe.train.epochs"),
    "10^9 tokens": ({"train": {"sequence_tokens": 10**9}}, "recipe.train.sequence_tokens"),
    "another task": ({"task": "text-classification"}, "recipe.task"),
    "a dataset": ({"dataset": "ds_x"}, "recipe.dataset"),
    "not a section": ({"train": 5}, "recipe.train"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_is_refused_is_refused_by_field_before_anything_starts(
    api: "RunningServer",
    http: httpx2.Client,
    echo: str,
    training_file: str,
    refused: "Refusal",
    name: str,
) -> None:
    assert api.jobs is not None
    launched, before = len(api.jobs.launched), http.get("/v1/fine_tuning/jobs").json()["first_id"]
    recipe, param = RECIPES[name]
    body = {"model": echo, "training_file": training_file, "recipe": recipe}
    message = refused(http.post("/v1/fine_tuning/jobs", json=body), 400, "invalid_value", param)
    if name.startswith("misspelt"):
        assert "Did you mean" in message
    assert http.get("/v1/fine_tuning/jobs").json()["first_id"] == before
    assert len(api.jobs.launched) == launched


SECTIONS: dict[str, tuple[object, str]] = {
    "no section": (5, "recipe.optimizer"),
    "null": (None, "recipe.optimizer"),
    "a text for a number": ({"learning_rate": "fast"}, "recipe.optimizer.learning_rate"),
    "a list for a number": ({"learning_rate": [1]}, "recipe.optimizer.learning_rate"),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_multiplier_of_a_rate_that_is_none_is_refused_by_field(
    http: httpx2.Client, echo: str, training_file: str, refused: "Refusal", name: str
) -> None:
    optimizer, param = SECTIONS[name]
    body = {
        "model": echo,
        "training_file": training_file,
        "hyperparameters": {"learning_rate_multiplier": 2.0},
        "recipe": {"optimizer": optimizer},
    }
    refused(http.post("/v1/fine_tuning/jobs", json=body), 400, "invalid_value", param)


REQUESTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "dpo beside supervised": (
        {"method": {"type": "supervised", "dpo": {}}}, "invalid_value", "method.dpo"
    ),
    "supervised beside dpo": (
        {"method": {"type": "dpo", "supervised": {}}}, "invalid_value", "method.supervised"
    ),
    "beta of 0": (
        {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}},
        "invalid_value",
        "method.dpo.hyperparameters.beta",
    ),
    "an objective against the method": (
        {"method": {"type": "dpo"}, "recipe": {"train": {"objective": "likelihood"}}},
        "invalid_value",
        "recipe.train.objective",
    ),
    "a beta of nothing": ({"recipe": {"dpo": {"beta": 0.5}}}, "invalid_value", "recipe.dpo"),
    "reinforcement": ({"method": {"type": "reinforcement"}}, "unsupported_value", "method.type"),
    "integrations": ({"integrations": [{"type": "wandb"}]}, "unsupported_value", "integrations"),
    "no rows": (
        {"hyperparameters": {"batch_size": 0}}, "invalid_value", "hyperparameters.batch_size"
    ),
    "misspelt": ({"sufix": "x"}, "invalid_value", "sufix"),
    "suffix of a path": ({"suffix": "../x"}, "invalid_value", "suffix"),
    "seed as text": ({"seed": "1"}, "invalid_value", "seed"),
    "17 notes": ({"metadata": {str(i): "x" for i in range(17)}}, "invalid_value", "metadata"),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_is_refused_is_refused_by_field(
    http: httpx2.Client, echo: str, training_file: str, refused: "Refusal", name: str
) -> None:
    change, code, param = REQUESTS[name]
    body = {"model": echo, "training_file": training_file} | change
    refused(http.post("/v1/fine_tuning/jobs", json=body), 400, code, param)


GOOD = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
FILES: dict[str, tuple[bytes, str]] = {
    "not JSON": (GOOD * 11 + b"{oops\n", "line 12"),
    "no messages": (GOOD * 11 + b'{"text": "x"}\n', "line 12"),
    "a role unheard of": (GOOD + GOOD.replace(b"user", b"king") + GOOD * 10, "line 2"),
    "no answer to learn": (GOOD.replace(b"assistant", b"user") + GOOD * 11, "line 1"),
    "content as number": (GOOD.replace(b'"q"', b"5") + GOOD * 11, "line 1"),
    "NaN": (GOOD * 10 + GOOD.replace(b'"q"', b"NaN"), "line 11"),
    "too few rows": (GOOD * 9, "9 rows"),
    "empty": (b"", "0 rows"),
    "binary": (b"PK\x03\x04" + bytes(100), "line 1"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_training_file_with_a_bad_row_is_refused_by_line(
    sdk: OpenAI, echo: str, name: str
) -> None:
    content, where = FILES[name]
    file = sdk.files.create(file=("bad.jsonl", content), purpose="fine-tune")
    with pytest.raises(BadRequestError) as raised:
        sdk.fine_tuning.jobs.create(model=echo, training_file=file.id)
    assert (raised.value.code, raised.value.param) == ("invalid_file", "training_file")
    assert where in raised.value.message


def test_a_file_of_another_purpose_is_refused(sdk: OpenAI, echo: str, chat_rows: bytes) -> None:
    file = sdk.files.create(file=("rows.jsonl", chat_rows), purpose="user_data")
    with pytest.raises(BadRequestError) as raised:
        sdk.fine_tuning.jobs.create(model=echo, training_file=file.id)
    assert raised.value.param == "training_file"


def test_unknown_files_models_and_jobs_are_not_found(
    sdk: OpenAI, echo: str, training_file: str
) -> None:
    jobs = sdk.fine_tuning.jobs
    with pytest.raises(NotFoundError) as raised:
        jobs.create(model=echo, training_file="file-none")
    assert (raised.value.code, raised.value.param) == ("not_found", "training_file")
    with pytest.raises(NotFoundError) as raised:
        jobs.create(model="none", training_file=training_file)
    assert raised.value.code == "model_not_found"
    for action in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(NotFoundError):
            action("ftjob-none")
    with pytest.raises(NotFoundError):
        jobs.list_events("ftjob-none")


def test_a_classifier_is_not_fine_tuned(
    http: httpx2.Client, spam: str, training_file: str, refused: "Refusal"
) -> None:
    body = {"model": spam, "training_file": training_file}
    answer = http.post("/v1/fine_tuning/jobs", json=body)
    refused(answer, 422, "method_unsupported", "model")


@pytest.mark.row("CRA-27")
def test_a_file_that_an_unfinished_job_needs_is_kept(
    api: "RunningServer", sdk: OpenAI, echo: str, chat_rows: bytes
) -> None:
    assert api.jobs is not None
    api.jobs.then(scripted_jobs.until_stopped)
    file = sdk.files.create(file=("rows.jsonl", chat_rows), purpose="fine-tune")
    made = sdk.fine_tuning.jobs.create(model=echo, training_file=file.id)
    with pytest.raises(ConflictError) as raised:
        sdk.files.delete(file.id)
    assert raised.value.code == "in_use"
    sdk.fine_tuning.jobs.cancel(made.id)
    wait_for(sdk, made.id, "cancelled")
    assert sdk.files.delete(file.id).deleted


def test_a_jobs_seconds_and_tokens_are_in_the_ledger(
    sdk: OpenAI,
    echo: str,
    training_file: str,
    usage_by_kind: Callable[[], dict[str, dict[str, Any]]],
) -> None:
    before = usage_by_kind().get("training", {"requests": 0, "input_tokens": 0})
    made = sdk.fine_tuning.jobs.create(model=echo, training_file=training_file)
    wait_for(sdk, made.id, "succeeded")
    after = usage_by_kind()["training"]
    assert after["requests"] - before["requests"] == 1
    assert after["input_tokens"] - before["input_tokens"] == 120


PAIR: dict[str, Any] = {
    "input": {"messages": [{"role": "user", "content": "q"}]},
    "preferred_output": [{"role": "assistant", "content": "a"}],
    "non_preferred_output": [{"role": "assistant", "content": "b"}],
}


@pytest.fixture
def pairs_file(sdk: OpenAI) -> str:
    content = "\n".join([json.dumps(PAIR)] * 12).encode()
    return sdk.files.create(file=("pairs.jsonl", content), purpose="fine-tune").id


def test_preference_tuning_is_asked_for_by_the_method(
    http: httpx2.Client, sdk: OpenAI, echo: str, pairs_file: str
) -> None:
    chosen: Any = {"beta": 0.3, "n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
    auto = sdk.fine_tuning.jobs.create(model=echo, training_file=pairs_file, method={"type": "dpo"})
    made = sdk.fine_tuning.jobs.create(
        model=echo,
        training_file=pairs_file,
        validation_file=pairs_file,
        method={"type": "dpo", "dpo": {"hyperparameters": chosen}},
    )
    job = wait_for(sdk, made.id, "succeeded")
    FineTuningJob.model_validate(job.to_dict())
    assert job.method is not None
    assert (job.method.type, job.method.supervised) == ("dpo", None)
    assert job.method.dpo is not None
    told = job.method.dpo.hyperparameters
    assert told is not None
    assert (told.beta, told.n_epochs, told.batch_size) == (0.3, 2, 4)
    usual = http.get(f"/v1/fine_tuning/jobs/{auto.id}").json()["recipe"]
    recipe = http.get(f"/v1/fine_tuning/jobs/{job.id}").json()["recipe"]
    assert (recipe["train"]["objective"], recipe["train"]["method"]) == ("dpo", "lora")
    assert (usual["dpo"]["beta"], recipe["dpo"]["beta"]) == (0.1, 0.3)
    rate = usual["optimizer"]["learning_rate"]
    assert recipe["optimizer"]["learning_rate"] == pytest.approx(rate / 2)


def test_the_recipe_too_may_ask_for_preference_tuning(
    sdk: OpenAI, echo: str, pairs_file: str
) -> None:
    recipe = {"train": {"objective": "dpo"}, "dpo": {"beta": 0.2}}
    job = sdk.fine_tuning.jobs.create(
        model=echo, training_file=pairs_file, extra_body={"recipe": recipe}
    )
    assert job.method is not None
    assert job.method.type == "dpo"


def test_each_method_has_rows_of_its_own(
    sdk: OpenAI, echo: str, training_file: str, pairs_file: str
) -> None:
    with pytest.raises(BadRequestError, match=r"lines 1, .*: a preference, .* \"dpo\"") as raised:
        sdk.fine_tuning.jobs.create(model=echo, training_file=pairs_file)
    assert raised.value.param == "training_file"
    for file in (training_file, pairs_file):
        with pytest.raises(BadRequestError, match=r'lines 1, .* "supervised"') as raised:
            sdk.fine_tuning.jobs.create(
                model=echo,
                training_file=file,
                validation_file=training_file,
                method={"type": "dpo"},
            )
    assert raised.value.param == "validation_file"
