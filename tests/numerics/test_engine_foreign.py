"""What `transformers` computes, served by our loop: its 64 greedy tokens, whatever runs beside it.

As in `test_engine_transformers.py` the fixtures' logits are far apart. Bits are compared between
runs of ours: alone, in a crowd with split prompts, and preempted.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    MambaConfig,
    MixtralConfig,
    PhiConfig,
)

from purvey.contracts.engine import Delta, Finished, Generate, TokenPrompt
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import Sampling
from purvey.engine.batch import Batch
from purvey.engine.core import Core
from purvey.engine.foreign.runner import TransformersRunner
from purvey.engine.logits import HostLogits
from purvey.engine.score import Scorer
from purvey.errors import InvalidCheckpointError, SettingError
from purvey.models.folder.manifest import read_manifest
from purvey.models.foreign import ForeignModel, load_foreign_model
from purvey.models.loading import open_model
from purvey.models.tokenizer import Tokenizer
from tests.numerics.greedy import NUM_NEW, SIZES, door_of, generate, prompt_of, written_by

PROMPTS = [prompt_of(length, seed=length) for length in (70, 33, 5)]
CONFIGS: dict[str, Any] = {  # transformers is untyped here
    "gpt2": GPT2Config(
        **{n: v for n, v in SIZES.items() if n != "intermediate_size"}, n_positions=256
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES, rotary_pct=0.5),
    "phi": PhiConfig(**SIZES, partial_rotary_factor=0.5),
    "mixtral": MixtralConfig(
        **SIZES | {"num_hidden_layers": 2}, num_local_experts=4, sliding_window=37
    ),
}
Folders = dict[str, tuple[Path, list[list[int]]]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A folder of each architecture, and what `transformers` itself writes with it."""
    found: Folders = {}
    for name, config in CONFIGS.items():
        folder = tmp_path_factory.mktemp("foreign")
        found[name] = folder, written_by(config, PROMPTS, folder)
        Tokenizer.train(["a b c"], vocabulary_size=264).save(folder)
    return found


def core_of(
    model: ForeignModel, *, num_blocks: int = 80, runner: type[TransformersRunner] | None = None
) -> Core:
    """Return a loop whose caches may hold so many blocks."""
    counted = TransformersRunner(model, kv_cache_bytes=2**30).cache
    block_bytes = counted.num_bytes // counted.num_blocks
    made = (runner or TransformersRunner)(model, kv_cache_bytes=num_blocks * block_bytes)
    assert made.cache.num_blocks == num_blocks
    return Core(made, max_batch_tokens=80, has_prefix_cache=False)


class Recording(TransformersRunner):
    """Keeps the logits of each row that somebody read, by request and position."""

    logits: dict[tuple[str, int], torch.Tensor]

    def run(self, batch: Batch) -> list[HostLogits]:
        """As always."""
        found = super().run(batch)
        self.logits = getattr(self, "logits", {})
        for span, rows in zip(batch.spans, found, strict=True):
            for position, row_V in zip(span.wanted, rows.rows(), strict=True):
                self.logits[span.sequence.request_id, position] = row_V
        return found


def recorded(core: Core) -> dict[tuple[str, int], torch.Tensor]:
    """Return what the loop's runner has recorded."""
    runner = core._runner
    assert isinstance(runner, Recording)
    return runner.logits


@pytest.mark.parametrize("name", CONFIGS)
def test_64_greedy_tokens_and_the_same_bits_in_a_crowd_and_preempted(
    name: str, written: Folders
) -> None:
    folder, expected = written[name]
    model = load_foreign_model(folder)
    alone: dict[tuple[str, int], torch.Tensor] = {}
    for number, prompt in enumerate(PROMPTS):
        core = core_of(model, runner=Recording)
        request_id = f"r{number}"
        assert generate(core, door_of(core), {request_id: prompt})[request_id] == expected[number]
        alone |= recorded(core)
    for num_blocks in (80, 10):  # 10 hold the longest, and no two of them to their end
        core = core_of(model, num_blocks=num_blocks, runner=Recording)
        together = generate(
            core, door_of(core), {f"r{i}": prompt for i, prompt in enumerate(PROMPTS)}
        )
        assert list(together.values()) == expected
        assert (core.stats().preemptions > 0) is (num_blocks == 10)
        crowd = recorded(core)
        assert crowd.keys() == alone.keys()
        assert all(torch.equal(row_V, alone[place]) for place, row_V in crowd.items())
        assert core._runner.num_held == 0  # type: ignore[attr-defined]
        assert core.stats().free_blocks == num_blocks


@pytest.fixture(scope="module")
def gpt2(written: Folders) -> ForeignModel:
    """A model that was loaded once."""
    return load_foreign_model(written["gpt2"][0])


def test_scores_and_log_probabilities_are_those_of_the_network(
    gpt2: ForeignModel, written: Folders
) -> None:
    core = core_of(gpt2)
    prompt, output = PROMPTS[0], PROMPTS[1]
    scores = Scorer(core, lambda *_: (prompt, output)).submit(
        [(TokenPrompt(tokens=tuple(prompt)), TokenPrompt(tokens=tuple(output)))]
    )
    while core.step():
        core.check()
    oracle = AutoModelForCausalLM.from_pretrained(written["gpt2"][0])
    with torch.inference_mode():
        logits_TV = oracle(torch.tensor([prompt + output])).logits[0]
    rows_TV = logits_TV.log_softmax(-1)[len(prompt) - 1 : -1]
    wanted = rows_TV.gather(1, torch.tensor(output)[:, None])[:, 0]
    assert torch.allclose(torch.tensor(scores.result(timeout=0)[0]), wanted, atol=1e-4)


def test_alternatives_and_an_echoed_prompt(gpt2: ForeignModel) -> None:
    core = core_of(gpt2)
    replies: list[Any] = []
    request = Generate(
        request_id="r",
        prompt=TokenPrompt(tokens=tuple(PROMPTS[2])),
        sampling=Sampling(temperature=0.0, max_tokens=3, num_logprobs=2, echo=True),
    )
    core.submit(door_of(core).generation(request, replies.append))
    while core.step():
        core.check()
    tokens = [token for reply in replies if isinstance(reply, Delta) for token in reply.tokens]
    assert len(tokens) == len(PROMPTS[2]) + 3
    for token in tokens[-3:]:
        assert token.alternatives[0].token_id == token.token_id
        assert token.alternatives[0].logprob >= token.alternatives[1].logprob


def test_a_cancelled_request_leaves_nothing_within_one_step(gpt2: ForeignModel) -> None:
    core = core_of(gpt2)
    runner, door = core._runner, door_of(core)
    assert isinstance(runner, TransformersRunner)
    replies: list[Any] = []
    sampling = Sampling(temperature=0.0, max_tokens=NUM_NEW)
    for name in ("kept", "cancelled"):
        request = Generate(
            request_id=name, prompt=TokenPrompt(tokens=tuple(PROMPTS[2])), sampling=sampling
        )
        core.submit(door.generation(request, replies.append))
    for _ in range(5):
        core.step()
    assert runner.num_held == 2
    core.cancel("cancelled")
    core.step()
    assert runner.num_held == 1
    while core.step():
        core.check()
    ends = {reply.request_id: reply.reason for reply in replies if isinstance(reply, Finished)}
    assert ends == {"kept": "length", "cancelled": "cancelled"}


class Breaking(Recording):
    """Breaks once, in the middle of a step, after the first sequence was computed."""

    num_left = 1

    def run(self, batch: Batch) -> list[HostLogits]:
        """Break while several decode."""
        found = super().run(batch)
        if len(batch.spans) > 1 and all(s.start > s.sequence.num_prompt for s in batch.spans):
            self.num_left -= 1
            if self.num_left == 0:
                raise RuntimeError("a step that broke")
        return found


def test_a_step_that_is_repeated_changes_no_token(gpt2: ForeignModel, written: Folders) -> None:
    core = core_of(gpt2, runner=Breaking)
    together = generate(core, door_of(core), {f"r{i}": prompt for i, prompt in enumerate(PROMPTS)})
    runner = core._runner
    assert isinstance(runner, Breaking)
    assert runner.num_left <= 0
    assert list(together.values()) == written["gpt2"][1]


def test_too_little_memory_is_refused_with_what_one_block_takes(gpt2: ForeignModel) -> None:
    # 3 layers of keys and values, 64 wide, 16 positions, 4 bytes each.
    with pytest.raises(SettingError, match=f"one block of this model takes {3 * 2 * 64 * 16 * 4}"):
        TransformersRunner(gpt2, kv_cache_bytes=1_000)


def test_a_folder_says_that_transformers_computes_it(written: Folders) -> None:
    folder, _ = written["phi"]
    assert read_manifest(folder).family == "transformers"
    model = open_model(ModelSource(name="phi", folder=str(folder), digest="0"))
    assert isinstance(model, ForeignModel)
    assert (model.architecture, model.vocabulary_size) == ("PhiForCausalLM", 270)
    assert model.context_tokens == 256
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"architectures": ["NobodyForCausalLM"]}, "neither our decoder nor the installed"),
        ({"architectures": ["PhiForCausalLM"]}, "names 'PhiForCausalLM', and its model_type"),
        ({"architectures": ["GPT2Model"]}, "names no architecture of a causal"),
        ({"auto_map": {"AutoModel": "net.Net"}}, "'auto_map', which names code"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
        ({"n_embd": 32, "hidden_size": 32}, "cannot load|mismatched"),
        ({"n_layer": 4}, "is missing"),
    ],
)
def test_what_neither_can_load_is_refused_by_name(
    tmp_path: Path, written: Folders, change: dict[str, Any], complaint: str
) -> None:
    folder, _ = written["gpt2"]
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidCheckpointError, match=complaint):
        load_foreign_model(tmp_path)


def test_a_network_without_keys_and_values_is_refused(tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=270, hidden_size=32, num_hidden_layers=1, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    Tokenizer.train(["a b c"], vocabulary_size=264).save(tmp_path)
    with pytest.raises(InvalidCheckpointError, match="keeps no key/value cache"):
        load_foreign_model(tmp_path)
