"""Two processes train through the server: one is killed, the job goes on, its model answers."""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from purvey.app.application import build
from purvey.client.purvey import Purvey
from tests.conftest import FIRST_KEY, make_settings

if TYPE_CHECKING:
    from purvey.app.application import Application

LANGUAGE: dict[str, Any] = {
    "task": "text-generation",
    "model": {
        "architecture": "decoder",
        "hyperparameters": {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "mlp_size": 64},
    },
    "tokenizer": {"vocabulary_size": 300},
    "train": {"batch_size": 4, "sequence_tokens": 32, "checkpoint_interval_s": 1.0},
}


@pytest.fixture
def application(tmp_path: Path) -> "Iterator[Application]":
    """A server whose jobs have two threads, and so two ranks where a recipe names no number."""
    settings = make_settings(tmp_path / "data", job_threads=2, spare_engine=False)
    application = build(settings)
    application.start()
    yield application
    application.stop()


@pytest.fixture
def purvey(application: "Application") -> Iterator[Purvey]:
    with Purvey(application.base_url, FIRST_KEY) as client:
        yield client


def dataset_of(purvey: Purvey, folder: Path) -> str:
    rows = [json.dumps({"text": topics[name]}) for name in sorted(topics)[:8]]
    (folder / "text.jsonl").write_text("\n".join(rows), encoding="utf-8")
    file = purvey.files.upload(folder / "text.jsonl")
    dataset = purvey.datasets.create([file.id], name="text")
    return purvey.datasets.wait(dataset.id).id


def ranks_of(work: Path) -> list[psutil.Process]:
    """Return the other ranks of the job that works there."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # those that have just ended
            if "rank" in process.cmdline() and str(work) in process.cwd():
                found.append(process)
    return found


def messages(purvey: Purvey, job_id: str) -> list[str]:
    return [event.message for event in purvey.training_jobs.events(job_id)]


@pytest.mark.train
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "tensor"])
def test_a_killed_rank_costs_an_attempt_and_not_the_job(
    application: "Application", purvey: Purvey, tmp_path: Path, strategy: str
) -> None:
    recipe = LANGUAGE | {"name": "shared", "parallel": {"strategy": strategy}}
    recipe["train"] = recipe["train"] | {"max_steps": 10_000}
    recipe["dataset"] = dataset_of(purvey, tmp_path)
    job = purvey.training_jobs.create(recipe)
    pause = threading.Event()
    while not list((tmp_path / "data").rglob("step-*/manifest.json")):
        assert purvey.training_jobs.get(job.id).status in {"queued", "running"}
        pause.wait(0.1)
    [rank] = ranks_of(tmp_path)
    rank.kill()
    while not any("SIGKILL" in message for message in messages(purvey, job.id)):
        pause.wait(0.1)
    told = next(message for message in messages(purvey, job.id) if "SIGKILL" in message)
    assert told.startswith("Attempt 1 of 3 was lost: rank 1 of 2 ended by SIGKILL")
    while not ranks_of(tmp_path):
        assert purvey.training_jobs.get(job.id).status in {"queued", "running"}
        pause.wait(0.1)
    [rank] = ranks_of(tmp_path)
    worker = rank.parent()
    assert worker is not None
    worker.kill()
    _, left = psutil.wait_procs([rank], timeout=20)
    assert left == [], "a rank outlives the job's worker"
    purvey.training_jobs.act(job.id, "cancel")
    ended = [event.message for event in purvey.training_jobs.follow(job.id)]
    assert ended[-1] == "The job is cancelled."
    _, left = psutil.wait_procs(ranks_of(tmp_path), timeout=20)
    assert left == [], "a rank outlives its job"
    assert any("starts from the checkpoint of step" in m for m in messages(purvey, job.id))


@pytest.mark.train
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "tensor"])
def test_what_two_have_learned_answers_by_name(
    purvey: Purvey, tmp_path: Path, strategy: str
) -> None:
    recipe = LANGUAGE | {"name": "pair", "parallel": {"strategy": strategy, "ranks": 2}}
    recipe["train"] = recipe["train"] | {"max_steps": 30}
    recipe["dataset"] = dataset_of(purvey, tmp_path)
    job = purvey.training_jobs.wait(purvey.training_jobs.create(recipe).id)
    assert job.status == "succeeded", messages(purvey, job.id)
    said = "".join(purvey.answers.complete("pair", "The ", temperature=0, max_tokens=4))
    assert said
