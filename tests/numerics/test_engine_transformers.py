"""64 greedy tokens as `transformers` writes them: alone, and among others with split prompts.

The fixtures' logits are far apart: at every step the best two differ by more than the
1e-4 that bounds what float32 summation order can move (STYLE, "Equal tokens"; asserted here).
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from purvey.contracts.engine import Delta, Finished, Generate, Refused, Sampling, Started
from purvey.contracts.engine import TokenPrompt as Tokens
from purvey.engine.core import Core
from purvey.engine.door import Door
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import KVCache
from purvey.engine.runner import Runner
from purvey.models.tokenizer import Tokenizer
from purvey.models.weights import load_folder

NUM_NEW = 64
MARGIN = 1e-4
SIZES = {
    "vocab_size": 270,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
CONFIGS: dict[str, Any] = {  # transformers is untyped here
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=12),
    "mistral": MistralConfig(**SIZES, sliding_window=37),
    "smollm3": SmolLM3Config(**SIZES, no_rope_layer_interval=2),
    "gemma2": Gemma2Config(**SIZES, head_dim=12, sliding_window=37, query_pre_attn_scalar=12),
    "gemma3": Gemma3TextConfig(
        **SIZES, head_dim=12, sliding_window=37, query_pre_attn_scalar=12, layer_types=ALTERNATING
    ),
}


@pytest.mark.parametrize("family", CONFIGS)
def test_64_greedy_tokens_alone_and_in_a_crowd(family: str, tmp_path: Path) -> None:
    prompts = [_prompt(length, seed=length) for length in (70, 33, 5, 120)]
    expected = _theirs(family, prompts, tmp_path)
    alone = []
    for number, prompt in enumerate(prompts):
        core, door = _engine(tmp_path)
        alone.append(_generate(core, door, {f"r{number}": prompt})[f"r{number}"])
    assert alone == expected
    core, door = _engine(tmp_path)
    together = _generate(core, door, {f"r{i}": prompt for i, prompt in enumerate(prompts)})
    assert list(together.values()) == expected


def _theirs(family: str, prompts: list[list[int]], folder: Path) -> list[list[int]]:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]).eval()
    model.save_pretrained(folder)
    outputs = []
    for prompt in prompts:
        with torch.inference_mode():
            found = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=NUM_NEW,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        best_2 = torch.stack(found.logits).topk(2).values
        assert (best_2[..., 0] - best_2[..., 1]).min() > MARGIN, "choose another seed"
        outputs.append(found.sequences[0, len(prompt) :].tolist())
    return outputs


def _engine(folder: Path) -> tuple[Core, Door]:
    decoder = load_folder(folder)
    runner = Runner(FrozenDecoder(decoder), KVCache(decoder.config, num_blocks=80))
    core = Core(runner, max_batch_tokens=80)
    door = Door(
        Tokenizer.train(["a b c"], vocabulary_size=264),
        None,
        stop_ids=frozenset(),
        vocabulary_size=270,
        context_tokens=256,
        cache_tokens=core.cache_tokens,
    )
    return core, door


def _generate(core: Core, door: Door, prompts: dict[str, list[int]]) -> dict[str, list[int]]:
    """Submit one prompt every third step, so that prompts are read while others decode."""
    outputs: dict[str, list[int]] = {name: [] for name in prompts}

    def collect(reply: Started | Delta | Finished | Refused) -> None:
        assert not isinstance(reply, Refused), reply
        if isinstance(reply, Delta):
            outputs[reply.request_id] += [token.token_id for token in reply.tokens]

    sampling = Sampling(temperature=0.0, max_tokens=NUM_NEW, num_logprobs=0)
    for name, prompt in prompts.items():
        request = Generate(request_id=name, prompt=Tokens(tokens=tuple(prompt)), sampling=sampling)
        core.submit(door.generation(request, collect))
        for _ in itertools.repeat(None, 3):
            core.step()
    while core.step():
        core.check()
    return outputs


def _prompt(length: int, *, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(0, 270, (length,), generator=generator).tolist()
    return ids
