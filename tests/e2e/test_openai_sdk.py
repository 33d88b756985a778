"""The official `openai` package through a whole life cycle, against real processes.

A Llama folder that `transformers` wrote is registered, fine-tuned through
`client.fine_tuning`, and answers as soon as its job has succeeded; what was trained here loads
in `transformers` again and says the same.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from purvey.client.purvey import Purvey
from purvey.models.tokenizer import Tokenizer
from tests.e2e.tiny_llama import tiny_llama

BASE = "sdk-base"
ACTIONS = {"red": "stop", "green": "go", "amber": "wait"}
ENDED = {"succeeded", "failed", "cancelled"}


def _question(colour: str) -> list[Any]:
    return [{"role": "user", "content": f"The light is {colour}."}]


def _training_rows() -> bytes:
    rows = [
        {"messages": [*_question(colour), {"role": "assistant", "content": action}]}
        for colour, action in ACTIONS.items()
    ]
    return "\n".join(json.dumps(row) for row in rows * 16).encode()


@pytest.fixture(scope="module")
def client(live_server: Any) -> Iterator[OpenAI]:
    with live_server.openai() as official:
        yield official


@pytest.fixture(scope="module")
def base(live_server: Any) -> str:
    """A registered base: random weights that `transformers` wrote, a tokenizer of ours."""
    folder = live_server.settings.model_roots[0] / BASE
    tokenizer = Tokenizer.train(["The light is red. stop go wait"] * 4, vocabulary_size=290)
    torch.manual_seed(0)
    config = tiny_llama(tokenizer.vocabulary_size)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(folder)
    with Purvey(live_server.base_url, live_server.admin_key) as purvey:
        purvey.models.register(BASE, str(folder))
    return BASE


@pytest.fixture(scope="module")
def job(client: OpenAI, base: str) -> FineTuningJob:
    """A full fine-tuning that has succeeded."""
    uploaded = client.files.create(file=("lights.jsonl", _training_rows()), purpose="fine-tune")
    held_out = client.files.create(file=("held.jsonl", _training_rows()), purpose="fine-tune")
    created = client.fine_tuning.jobs.create(
        model=base,
        training_file=uploaded.id,
        validation_file=held_out.id,
        suffix="lights",
        seed=7,
        hyperparameters={"n_epochs": 20, "batch_size": 4, "learning_rate_multiplier": 1.0},
        extra_body={"recipe": {"train": {"method": "full"}, "optimizer": {"learning_rate": 5e-3}}},
    )
    assert created.status in {"validating_files", "queued", "running"}
    ended = _ended(client, created.id)
    assert ended.status == "succeeded", ended.error
    return ended


def _ended(client: OpenAI, job_id: str) -> FineTuningJob:
    deadline = time.monotonic() + 200
    while (job := client.fine_tuning.jobs.retrieve(job_id)).status not in ENDED:
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
    return job


def _tuned(job: FineTuningJob) -> str:
    assert job.fine_tuned_model is not None
    return job.fine_tuned_model


def test_the_job_tells_its_story_and_names_its_model(client: OpenAI, job: FineTuningJob) -> None:
    assert _tuned(job).startswith(f"ft:{BASE}:")
    assert ":lights:" in _tuned(job)
    assert (job.trained_tokens or 0) > 0
    assert job.finished_at is not None
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=5))  # the SDK turns the pages
    assert len({event.id for event in events}) == len(events) > 5
    assert [e.created_at for e in events] == sorted((e.created_at for e in events), reverse=True)
    assert {"message", "metrics"} <= {event.type for event in events}
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert checkpoints
    assert checkpoints[0].metrics.train_loss is not None
    assert checkpoints[0].metrics.valid_loss is not None
    assert checkpoints[0].metrics.valid_loss < 0.1
    assert job.id in {found.id for found in client.fine_tuning.jobs.list()}


LEAKAGE = "Leakage: 48 of 48 rows of the validation file ask what the training file asks too"


def test_rows_that_both_files_hold_are_told_and_kept_in_the_lineage(
    client: OpenAI, job: FineTuningJob
) -> None:
    told = [e.message for e in client.fine_tuning.jobs.list_events(job.id) if e.level == "warn"]
    assert [one.partition(" (")[0] for one in told if one.startswith("Leakage")] == [LEAKAGE]
    shown: Any = client.get(f"/models/{_tuned(job)}", cast_to=object)
    assert shown["lineage"]["validation_overlap"] == {"exact": 48, "near": 48}


def test_the_model_is_listed_and_answers(client: OpenAI, job: FineTuningJob) -> None:
    assert _tuned(job) in {model.id for model in client.models.list()}
    for colour, action in ACTIONS.items():
        answer = client.chat.completions.create(
            model=_tuned(job), messages=_question(colour), temperature=0, max_completion_tokens=8
        )
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (
            action,
            "stop",
        )
        assert answer.usage is not None
        assert answer.usage.total_tokens == (
            answer.usage.prompt_tokens + answer.usage.completion_tokens
        )


def test_a_stream_says_the_same_and_counts_at_its_end(client: OpenAI, job: FineTuningJob) -> None:
    stream = client.chat.completions.create(
        model=_tuned(job),
        messages=_question("green"),
        temperature=0,
        max_completion_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    told = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
    assert told == "go"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens >= 1


def test_log_probabilities_are_those_of_the_tokens(client: OpenAI, job: FineTuningJob) -> None:
    answer = client.chat.completions.create(
        model=_tuned(job),
        messages=_question("red"),
        temperature=0,
        max_completion_tokens=8,
        logprobs=True,
        top_logprobs=3,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert "".join(token.token for token in logprobs.content) == "stop"
    for token in logprobs.content:
        assert token.logprob == max(t.logprob for t in token.top_logprobs), "greedy takes the best"
        assert len(token.top_logprobs) == 3


def test_a_decision_weighs_the_choices(client: OpenAI, job: FineTuningJob) -> None:
    decision = client.decisions.create(
        model=_tuned(job),
        input="The light is amber.",
        questions=[
            {
                "type": "choice",
                "instructions": "What should the driver do?",
                "choices": [{"value": action} for action in ACTIONS.values()],
            }
        ],
    )
    answer = decision.answers[0]
    assert answer.type == "choice"
    assert {option.value for option in answer.probabilities} == set(ACTIONS.values())
    assert sum(option.probability for option in answer.probabilities) == pytest.approx(1)


def test_the_sdk_raises_its_own_errors(client: OpenAI, live_server: Any, base: str) -> None:
    with live_server.openai("sk-wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("no-such-model")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as hot:
        client.chat.completions.create(model=base, messages=_question("red"), temperature=9)
    assert hot.value.param == "temperature"
    long = "light " * 400
    with pytest.raises(openai.BadRequestError) as too_long:
        client.completions.create(model=base, prompt=long)
    assert too_long.value.code == "context_length_exceeded"
    bad = client.files.create(
        file=("bad.jsonl", _training_rows() + b'\n{"messages": []}\n'), purpose="fine-tune"
    )
    with pytest.raises(openai.BadRequestError, match="line 49"):
        client.fine_tuning.jobs.create(model=base, training_file=bad.id)


def test_what_was_trained_here_says_the_same_in_transformers(
    client: OpenAI, job: FineTuningJob, live_server: Any
) -> None:
    folder = _folder_of(live_server.data_dir, _tuned(job))
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for colour, action in ACTIONS.items():
        prompt = tokenizer.apply_chat_template(
            _question(colour), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            out = theirs.generate(**prompt, max_new_tokens=8, do_sample=False)
        written = out[0, prompt["input_ids"].shape[1] :]
        assert tokenizer.decode(written, skip_special_tokens=True) == action


def _folder_of(data_dir: Path, name: str) -> Path:
    """Find the registered model's files by what they are: the newest whole Llama folder."""
    configs = sorted(data_dir.rglob("config.json"), key=lambda path: path.stat().st_mtime)
    assert configs, name
    return configs[-1].parent


def test_a_grown_model_is_larger_and_says_the_same(client: OpenAI, job: FineTuningJob) -> None:
    uploaded = client.files.create(file=("lights.jsonl", _training_rows()), purpose="fine-tune")
    created = client.fine_tuning.jobs.create(
        model=_tuned(job),
        training_file=uploaded.id,
        suffix="grown",
        hyperparameters={"n_epochs": 1, "batch_size": 48},
        extra_body={
            "recipe": {
                "model": {"width_factor": 2, "depth_factor": 2},
                "optimizer": {"learning_rate": 1e-9},
            }
        },
    )
    grown = _ended(client, created.id)
    assert grown.status == "succeeded", grown.error
    record = client.models.retrieve(_tuned(grown)).to_dict()["lineage"]["grown"]  # type: ignore[index]  # ours
    assert record["parameters"] > 4 * record["parameters_before"]
    assert record["largest_difference"] < 1e-3
    events = client.fine_tuning.jobs.list_events(grown.id)
    assert any(event.message.startswith(f"Grew '{_tuned(job)}' from ") for event in events)
    for colour, action in ACTIONS.items():
        answer = client.chat.completions.create(
            model=_tuned(grown), messages=_question(colour), temperature=0, max_completion_tokens=8
        )
        assert answer.choices[0].message.content == action
