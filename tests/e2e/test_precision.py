"""A precision chosen for a server and for a profile: what it is, what it takes, what it costs."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from openai import OpenAI
from transformers import LlamaConfig, LlamaForCausalLM

from purvey.app.application import build
from purvey.cli.main import run
from purvey.client.purvey import Purvey
from purvey.models.tokenizer import Tokenizer
from tests.conftest import FIRST_KEY, make_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from purvey.app.application import Application

TEXT = "The light is red. Stop! The light is green, so we go; the light is red again. " * 9
CONTEXT = 64


@pytest.fixture
def application(tmp_path: Path) -> "Iterator[Application]":
    """A server whose models are in 8 bits, and a deployment with an exact profile."""
    tokenizer = Tokenizer.train([TEXT], vocabulary_size=300)
    settings = make_settings(
        tmp_path / "data",
        model_roots=(tmp_path / "models",),
        precision="int8",
        kv_cache_bytes=2**20,
    )
    application = build(settings)
    application.start()
    try:
        with Purvey(application.base_url, FIRST_KEY) as purvey:
            _write(tmp_path / "models" / "m", tokenizer)
            purvey.models.register("m", str(tmp_path / "models" / "m"))
        yield application
    finally:
        application.stop()


def _write(folder: Path, tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.vocabulary_size,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # spread the logits, so that a precision is seen
        model.lm_head.weight.mul_(10)
    model.save_pretrained(folder)
    tokenizer.save(folder)


def _oracle(folder: Path) -> float:
    """Compute the perplexity with `transformers`, in windows that do not overlap."""
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    ids = Tokenizer.from_folder(folder).encode(TEXT)
    assert len(ids) > 2 * CONTEXT
    logprobs: list[float] = []
    for start in range(0, len(ids) - 1, CONTEXT - 1):
        window = torch.tensor([ids[start : start + CONTEXT - 1]])
        with torch.no_grad():
            scores = model(window).logits[0, :-1].log_softmax(-1)
        logprobs += scores.gather(1, window[0, 1:, None])[:, 0].tolist()
    return math.exp(-sum(logprobs) / len(logprobs))


@pytest.mark.train
def test_a_precision_is_told_and_its_cost_measured(
    application: "Application",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PURVEY_BASE_URL", application.base_url)
    monkeypatch.setenv("PURVEY_API_KEY", FIRST_KEY)
    text = tmp_path / "held-out.txt"
    text.write_text(TEXT)

    def purvey(*words: str, status: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            run(words)
        told = capsys.readouterr()
        assert ended.value.code == status, told.err
        return told.err if status else told.out

    def measured(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            purvey("show", name, "--perplexity", str(text), "--json")
        )["perplexity"]
        return found

    assert "in memory" not in purvey("show", "m")
    with OpenAI(base_url=f"{application.base_url}/v1", api_key=FIRST_KEY, max_retries=0) as sdk:
        body = {"id": "d", "model": "m", "profiles": {"exact": {"precision": "fp32"}}}
        sdk.post("/deployments", body=body, cast_to=object)
        exact, rounded = measured("d:exact"), measured("m")
        oracle = _oracle(tmp_path / "models" / "m")
        assert exact["value"] == pytest.approx(oracle, rel=1e-4)
        assert rounded["value"] == pytest.approx(oracle, rel=0.02)
        assert rounded["value"] != exact["value"]
        assert exact["window_tokens"] == CONTEXT - 1

        shown_by_sdk: Any = sdk.models.retrieve("m").to_dict()
    engines = {one["precision"]: one for one in shown_by_sdk["engines"]}
    assert engines.keys() == {"float32", "int8"}
    assert 0 < engines["int8"]["weights_bytes"] < engines["float32"]["weights_bytes"] / 2
    assert 0 < engines["int8"]["kv_cache_bytes"] <= 2**20
    assert engines["int8"]["workspace_bytes"] > 0

    shown = purvey("show", "m", "--perplexity", str(text))
    assert f"{rounded['value']:.4f} over {rounded['num_tokens']} tokens" in shown
    assert "int8: weights" in shown
    assert "windows of 63" in purvey("show", "d:exact", "--perplexity", str(text))
    text.write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in purvey("show", "m", "--perplexity", str(text), status=2)
    text.write_text("x")
    assert "fewer than two tokens" in purvey("show", "m", "--perplexity", str(text), status=2)
