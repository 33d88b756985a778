"""A job and an engine on one machine: the job makes room while somebody reads, and goes back."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import httpx2
import psutil
import pytest
import torch
from openai import OpenAI
from transformers import LlamaForCausalLM

from purvey.app.application import build
from purvey.client.purvey import Purvey
from purvey.ipc.processors import cores_of, divide
from purvey.models.tokenizer import Tokenizer
from tests.conftest import FIRST_KEY, make_settings
from tests.e2e.tiny_llama import tiny_llama

if TYPE_CHECKING:
    from purvey.app.application import Application

PROMPT = "The light is red. "
RECIPE = {
    "task": "text-generation",
    "name": "small",
    "model": {
        "architecture": "decoder",
        "hyperparameters": {"hidden_size": 192, "num_layers": 2, "num_heads": 6},
    },
    "tokenizer": {"vocabulary_size": 300},
    "train": {"epochs": 10_000, "batch_size": 2, "sequence_tokens": 32},
}


def _write_model(folder: Path) -> None:
    tokenizer = Tokenizer.train([PROMPT] * 4, vocabulary_size=290)
    torch.manual_seed(0)
    config = tiny_llama(tokenizer.vocabulary_size)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(folder)


@pytest.fixture
def application(tmp_path: Path) -> "Iterator[Application]":
    """A server with real processes of two threads each."""
    settings = make_settings(
        tmp_path / "data",
        model_roots=(tmp_path / "models",),
        kv_cache_bytes=2**20,
        engine_threads=2,
        spare_engine=False,
        job_threads=2,
    )
    application = build(settings)
    application.start()
    yield application
    application.stop()


def _workers(mode: str) -> set[int]:
    """Return the processes of a mode, those of other tests' servers among them."""
    return {child.pid for child in psutil.Process().children() if mode in child.cmdline()}


def _processors(mode: str, *, before: set[int]) -> set[frozenset[int]]:
    """Return where the threads of the only worker of a mode may run that has come since."""
    [pid] = _workers(mode) - before
    threads = (int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir())
    return {frozenset(os.sched_getaffinity(thread)) for thread in threads}


def _until(is_so: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1_000):
        if is_so():
            return
        pause.wait(0.02)
    pytest.fail("it never came to be so")


def _shown(purvey_url: str) -> dict[str, float]:
    headers = {"authorization": f"Bearer {FIRST_KEY}"}
    text = httpx2.get(f"{purvey_url}/metrics", headers=headers).text
    found = re.findall(r'^purvey_processors{used_by="(\w+)"} (\S+)$', text, re.MULTILINE)
    return {used_by: float(count) for used_by, count in found}


def _train(purvey: Purvey, folder: Path) -> str:
    """Begin a job, and return it once it trains."""
    text = folder / "text.jsonl"
    rows = (json.dumps({"text": topics[name]}) for name in sorted(topics)[:6])
    text.write_text("\n".join(rows), encoding="utf-8")
    dataset = purvey.datasets.create([purvey.files.upload(text).id], name="text")
    purvey.datasets.wait(dataset.id)
    job = purvey.training_jobs.create({**RECIPE, "dataset": dataset.id})
    next(event for event in purvey.training_jobs.follow(job.id) if event.type == "metrics")
    return job.id


def test_a_job_makes_room_while_somebody_reads(application: "Application", tmp_path: Path) -> None:
    everything = frozenset(os.sched_getaffinity(0))
    division = divide(cores_of(everything), job_share=0.5)
    jobs, engines = (division.jobs, division.engines) if division else (everything, everything)
    _write_model(tmp_path / "models" / "anna")
    others = _workers("engine") | _workers("job")
    with (
        Purvey(application.base_url, FIRST_KEY) as purvey,
        OpenAI(base_url=f"{application.base_url}/v1", api_key=FIRST_KEY, max_retries=0) as openai,
    ):
        purvey.models.register("anna", str(tmp_path / "models" / "anna"))

        def say() -> str:
            answer = openai.completions.create(
                model="anna", prompt=PROMPT, max_tokens=24, temperature=0
            )
            return answer.choices[0].text

        alone = say()
        assert _processors("engine", before=others) == {everything}, "no job, no need to part"
        job_id = _train(purvey, tmp_path)
        _until(lambda: _processors("job", before=others) == {everything})

        has_read = threading.Event()

        def read_on() -> set[str]:
            answers = {say()}
            while not has_read.is_set():
                answers.add(say())
            return answers

        with ThreadPoolExecutor(1) as pool:
            answers = pool.submit(read_on)
            try:
                _until(lambda: _processors("job", before=others) == {jobs})
                _until(lambda: _processors("engine", before=others) == {engines})
                counts = {"jobs": len(jobs), "engines": len(engines)} if division else {}
                _until(lambda: counts.items() <= _shown(application.base_url).items())
            finally:
                has_read.set()
        assert answers.result() == {alone}, "an answer depends on who computes beside it"

        _until(lambda: _processors("job", before=others) == {everything})
        assert _processors("engine", before=others) == {everything}
        assert purvey.training_jobs.get(job_id).status == "running"
        purvey.training_jobs.act(job_id, "cancel")
