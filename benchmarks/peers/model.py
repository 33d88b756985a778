"""The model that every peer is given: a Llama shape of 0.4 billion random weights, written once.

Weights are stored in bfloat16, so that float32 and bfloat16 mean the same numbers to everybody.
The embedding (which is the head too) is spread so that no near-tie decides a token, and the end
token's row is zero: its logit is 0, the best of 32,000 is far above, and no output ends early.
"""

import json
import os
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import torch
import transformers

from benchmarks.peers.cache import cache, once
from purvey.models.tokenizer import Tokenizer

SHAPE = {
    "vocab_size": 32_000,
    "hidden_size": 1_024,
    "intermediate_size": 4_096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4_096,
    "tie_word_embeddings": True,
}
EOS = 0
EMBEDDING_STD = 0.2
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def model_folder() -> Path:
    """Return the Hugging Face folder, written on first use."""
    folder = cache() / "models" / "llama-0.4b"
    if once(folder):
        unfinished = folder.with_suffix(".unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        _write_weights(unfinished)
        _write_tokenizer(unfinished)
        unfinished.rename(folder)
    return folder


def token_prompts(count: int, length: int, *, seed: int) -> list[list[int]]:
    """Return random prompts of `length` tokens; another seed, no common beginning."""
    generator = random.Random(seed)  # noqa: S311 (a workload, not a secret)
    return [
        [generator.randrange(16, SHAPE["vocab_size"]) for _ in range(length)] for _ in range(count)
    ]


def text_prompts(count: int, length: int, *, seed: int) -> list[str]:
    """Return texts of exactly `length` tokens, whoever tokenises them."""
    tokenizer = Tokenizer.from_folder(model_folder())
    ids = tokenizer.encode(" ".join(topics.values()))
    generator = random.Random(seed)  # noqa: S311 (a workload, not a secret)
    texts: list[str] = []
    while len(texts) < count:
        start = generator.randrange(len(ids) - length)
        text = tokenizer.decode(ids[start : start + length])
        if tokenizer.encode(text) == ids[start : start + length]:
            texts.append(text)
    return texts


def _write_weights(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE, bos_token_id=None, eos_token_id=EOS)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding.normal_(std=EMBEDDING_STD)
        embedding[EOS] = 0
    model.bfloat16().save_pretrained(folder)


def _write_tokenizer(folder: Path) -> None:
    Tokenizer.train(_corpus(), vocabulary_size=SHAPE["vocab_size"]).save(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"eos_token": "<|endoftext|>", "chat_template": CHAT_TEMPLATE}
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")


def _corpus() -> Iterator[str]:
    """Python's own reference and library: text that every machine with Python has."""
    yield from topics.values()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path.read_text(encoding="utf-8", errors="replace")
    for path in sorted(Path(os.fspath(sysconfig.get_path("stdlib"))).glob("[a-d]*/*.py")):
        yield path.read_text(encoding="utf-8", errors="replace")
