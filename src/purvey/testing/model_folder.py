"""A model folder that passes registration, made without a tensor library."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

TENSOR = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def safetensors_bytes(header: Mapping[str, object], *, num_bytes: int = 16) -> bytes:
    """Return a safetensors file with this header and that many bytes of zeros behind it."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(num_bytes)


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8}
BERT = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 8}
CROSS_ENCODER = BERT | {
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "relevance"},
}


def write_plausible_folder(folder: Path, config: Mapping[str, object] = LLAMA) -> Path:
    """Write config, tokenizer and one small tensor; a scripted engine serves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text('{"version": "1.0"}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(safetensors_bytes({"embed.weight": TENSOR}))
    return folder
