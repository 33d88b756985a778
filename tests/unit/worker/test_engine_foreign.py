"""An engine process with a model that only `transformers` computes."""

from pathlib import Path

import pytest
import torch

from purvey.contracts.deployment import Precision
from purvey.contracts.engine import (
    Delta,
    Drain,
    EngineStats,
    Finished,
    Generate,
    LoadFailed,
    LoadModel,
    ModelLoaded,
    Score,
    Scored,
    Started,
    TextPrompt,
    ToEngine,
    Tokenize,
    Tokenized,
)
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import Sampling
from purvey.models.tokenizer import Tokenizer
from purvey.worker import engine
from tests.unit.worker.test_engine_process import MemoryLink

GREEDY = Sampling(temperature=0.0, max_tokens=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random GPT-2 with a tokenizer of its size."""
    from transformers import AutoModelForCausalLM, GPT2Config

    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=270, n_embd=32, n_layer=2, n_head=4, n_positions=128,
        eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    Tokenizer.train(["the cat sat"], vocabulary_size=264).save(folder)
    return folder


def told(folder: Path, *, precision: Precision = "auto") -> MemoryLink:
    """Return a link over which an engine was told to load."""
    link = MemoryLink()
    link.tell(
        LoadModel(
            source=ModelSource(name="gpt2", folder=str(folder), digest="0" * 64),
            num_threads=1,
            kv_cache_bytes=2**20,
            max_batch_tokens=64,
            precision=precision,
        )
    )
    return link


def test_it_says_what_computes_it_and_answers_everything(folder: Path) -> None:
    link = told(folder)
    prompt = TextPrompt(text="the cat sat")
    questions: list[ToEngine] = [
        Generate(request_id="g1", prompt=prompt, sampling=GREEDY),
        Generate(request_id="g2", prompt=prompt, sampling=GREEDY),
        Score(request_id="s", pairs=((prompt, TextPrompt(text=" on")),)),
        Tokenize(request_id="t", prompt=prompt),
    ]
    for question in questions:
        link.tell(question)
    link.tell(Drain())
    assert engine.run(link) == 0
    loaded = link.hear()
    assert isinstance(loaded, ModelLoaded)
    assert (loaded.path, loaded.precision, loaded.task) == (
        "transformers", "float32", "text-generation",
    )  # fmt: skip
    assert loaded.context_tokens == 128
    assert loaded.weights_bytes >= 4 * loaded.num_parameters > 0
    assert 0 < loaded.resident_bytes - loaded.weights_bytes <= 2**20
    replies = [link.hear() for _ in range(_num_left(link))]
    texts = {
        name: "".join(r.text for r in replies if isinstance(r, Delta) and r.request_id == name)
        for name in ("g1", "g2")
    }
    assert texts["g1"] == texts["g2"] != ""
    assert {type(r) for r in replies} == {Started, Delta, Finished, Scored, Tokenized}
    started = [r for r in replies if isinstance(r, Started)]
    assert [r.cached_tokens for r in started] == [0, 0]  # prompts share nothing
    (scored,) = (r for r in replies if isinstance(r, Scored))
    assert all(logprob < 0 for logprob in scored.logprobs[0])


def _num_left(link: MemoryLink) -> int:
    """Count what was said beside statistics, after the engine has ended."""
    said = list(link._from_engine.queue)
    return sum(not isinstance(one, EngineStats) for one in said)


def test_a_precision_that_transformers_is_not_served_in_is_refused(folder: Path) -> None:
    link = told(folder, precision="int8")
    assert engine.run(link) == 1
    failed = link.hear()
    assert isinstance(failed, LoadFailed)
    assert failed.code == "unsupported_value"
    assert "'int8'" in failed.message
    assert "'fp32'" in failed.message
