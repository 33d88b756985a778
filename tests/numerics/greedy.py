"""64 greedy tokens of tiny random models: as `transformers` writes them, and as a core does."""

import itertools
from pathlib import Path
from typing import Any

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

from purvey.contracts.engine import Delta, Finished, Generate, Refused, Started
from purvey.contracts.engine import TokenPrompt as Tokens
from purvey.contracts.sampling import Sampling
from purvey.engine.core import Core
from purvey.engine.door import Door
from purvey.models.tokenizer import Tokenizer

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


def theirs(family: str, prompts: list[list[int]], folder: Path) -> list[list[int]]:
    """As `written_by`, of one of our families."""
    return written_by(CONFIGS[family], prompts, folder)


def written_by(config: Any, prompts: list[list[int]], folder: Path) -> list[list[int]]:
    """Write a model and return its outputs; the best two logits never come near each other."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
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


def door_of(core: Core) -> Door:
    """Return a door that takes token ids and never stops early."""
    return Door(
        Tokenizer.train(["a b c"], vocabulary_size=264),
        None,
        stop_ids=frozenset(),
        vocabulary_size=270,
        context_tokens=256,
        cache_tokens=core.cache_tokens,
    )


def generate(core: Core, door: Door, prompts: dict[str, list[int]]) -> dict[str, list[int]]:
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


def prompt_of(length: int, *, seed: int) -> list[int]:
    """Return random token ids."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(0, 270, (length,), generator=generator).tolist()
    return ids
