"""Three real models in a budget that holds two: all are answered, and what moved is told."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import torch
from openai import OpenAI
from transformers import LlamaForCausalLM

from purvey.app.application import build
from purvey.cli.main import run
from purvey.client.purvey import Purvey
from purvey.models.tokenizer import Tokenizer
from purvey.registry.engines.memory import PROCESS_BYTES
from tests.conftest import FIRST_KEY, make_settings
from tests.e2e.tiny_llama import tiny_llama

if TYPE_CHECKING:
    from collections.abc import Iterator

    from purvey.app.application import Application

NAMES = ("anna", "bert", "cleo")
PROMPT = "The light is red. "
CACHE_BYTES = 2**20
TWO = (PROCESS_BYTES + 16 * 2**20) * 5 // 2
"""Two of the models, each with its cache and at most 15 MiB of weights and workspace."""


def _write(folder: Path, seed: int, tokenizer: Tokenizer) -> None:
    torch.manual_seed(seed)
    config = tiny_llama(tokenizer.vocabulary_size)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(folder)


@pytest.fixture
def application(tmp_path: Path) -> "Iterator[Application]":
    """A server with real engines, and the three models registered."""
    tokenizer = Tokenizer.train(["The light is red. stop go wait"] * 4, vocabulary_size=290)
    settings = make_settings(
        tmp_path / "data",
        model_roots=(tmp_path / "models",),
        model_memory_bytes=TWO,
        kv_cache_bytes=CACHE_BYTES,
    )
    application = build(settings)
    application.start()
    try:
        with Purvey(application.base_url, FIRST_KEY) as purvey:
            for seed, name in enumerate(NAMES):
                _write(tmp_path / "models" / name, seed, tokenizer)
                purvey.models.register(name, str(tmp_path / "models" / name))
        yield application
    finally:
        application.stop()


def _say(client: OpenAI, name: str) -> str:
    answer = client.completions.create(model=name, prompt=PROMPT, max_tokens=8, temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    return answer.choices[0].text


def _counted(base_url: str) -> dict[str, float]:
    headers = {"authorization": f"Bearer {FIRST_KEY}"}
    text = httpx2.get(f"{base_url}/metrics", headers=headers).text
    names = {"loads": "loads_total", "evictions": 'evictions_total{reason="room"}'}
    found = {}
    for short, name in names.items():
        line = re.search(rf"^purvey_engine_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        found[short] = float(line[1]) if line else 0.0
    return found


def _ps(
    application: "Application",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *words: str,
) -> Any:
    monkeypatch.setenv("PURVEY_BASE_URL", application.base_url)
    monkeypatch.setenv("PURVEY_API_KEY", FIRST_KEY)
    with pytest.raises(SystemExit) as ended:
        run(words)
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    return json.loads(told.out) if "--json" in words else told.out


def test_three_models_in_a_budget_for_two(
    application: "Application",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = _counted(application.base_url)
    base_url = f"{application.base_url}/v1"
    with OpenAI(base_url=base_url, api_key=FIRST_KEY, max_retries=0) as client:
        alone = {name: _say(client, name) for name in NAMES}
        assert len(set(alone.values())) == 3, "they would not be told apart"
        asked = [*NAMES, *NAMES]
        with ThreadPoolExecutor(len(asked)) as pool:
            answers = list(pool.map(lambda name: _say(client, name), asked))
        assert answers == [alone[name] for name in asked]

    shown = _ps(application, monkeypatch, capsys, "ps", "--json")
    engines, memory = shown["engines"], shown["memory"]
    resident = [one["model"] for one in engines if one["state"] == "ready"]
    assert len(resident) == 2
    assert {one["users"] for one in engines} == {0}
    assert memory["budget_bytes"] == TWO >= memory["held_bytes"] > 2 * PROCESS_BYTES
    assert memory["loads"] >= 4, "a model that had left was loaded again"
    assert memory["evictions"] == memory["loads"] - 2
    after = _counted(application.base_url)
    assert after["evictions"] - before["evictions"] == memory["evictions"]
    assert after["loads"] - before["loads"] == memory["loads"]

    table = _ps(application, monkeypatch, capsys, "ps")
    assert all(
        re.search(rf"^{name} +\d+ MiB +float32 +ready +0 ", table, re.M) for name in resident
    )
    told = _ps(application, monkeypatch, capsys, "stop", resident[0])
    assert told == f"{resident[0]}: leaves memory\n"
