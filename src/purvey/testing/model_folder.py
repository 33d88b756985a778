"""A model folder that passes registration, made without a tensor library."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import msgspec

from purvey.contracts.model import (
    EYES_NAME,
    MANIFEST_NAME,
    AudioSpec,
    ImageSpec,
    ModelManifest,
)

TENSOR = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def safetensors_bytes(header: Mapping[str, object], *, num_bytes: int = 16) -> bytes:
    """Return a safetensors file with this header and that many bytes of zeros behind it."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(num_bytes)


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8}
BERT = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 8}
CLIP = {
    "model_type": "clip",
    "architectures": ["CLIPModel"],
    "vision_config": {"image_size": 8, "patch_size": 4},
}
CROSS_ENCODER = BERT | {
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "relevance"},
}


ADAPTABLE = {"model.layers.0.self_attn.q_proj.weight": (2, 2)}
"""Shapes of a model that the adapter of `write_plausible_adapter` fits."""


def write_plausible_folder(
    folder: Path,
    config: Mapping[str, object] = LLAMA,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Path:
    """Write config, tokenizer and one small tensor, or these; a scripted engine serves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text('{"version": "1.0"}', encoding="utf-8")
    write_zeros(folder / "model.safetensors", shapes or {"embed.weight": (2, 2)})
    return folder


def write_plausible_adapter(
    folder: Path, *, base: str = "base", config: Mapping[str, object] | None = None
) -> Path:
    """Write a LoRA adapter of rank 1 in PEFT's format, on what `ADAPTABLE` shows.

    Args:
        folder: Made where missing.
        base: What it calls its base.
        config: Over the values of `adapter_config.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "base_model_name_or_path": base}
    text = json.dumps(values | dict(config or {}))
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes = {f"{layer}.lora_A.weight": (1, 2), f"{layer}.lora_B.weight": (2, 1)}
    write_zeros(folder / "adapter_model.safetensors", shapes)
    return folder


def write_plausible_recogniser(folder: Path) -> Path:
    """Write a model for speech recognition; a scripted engine hears as `scripted_speech` says."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = ModelManifest(
        family="speech",
        task="speech-recognition",
        inputs={"input": AudioSpec()},
        architecture="ctc",
        vocabulary=("a", "b"),
    )
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    write_zeros(folder / "model.safetensors", {"head.weight": (2, 2)})
    return folder


def write_plausible_whisper(folder: Path) -> Path:
    """Write a model of the Whisper family; a scripted engine hears as `scripted_speech` says."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = ModelManifest(
        family="whisper", task="speech-recognition", inputs={"input": AudioSpec(max_s=30.0)}
    )
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    write_zeros(folder / "model.safetensors", {"model.encoder.conv1.bias": (2,)})
    return folder


def write_plausible_seer(folder: Path, *, num_images: int = 1) -> Path:
    """Write a model that answers about images; a scripted engine answers as about text alone."""
    write_plausible_folder(folder)
    names = ["image", *(f"image_{number}" for number in range(2, num_images + 1))]
    manifest = ModelManifest(
        family="vision-language",
        task="image-text-to-text",
        inputs=dict.fromkeys(names, ImageSpec(height=8, width=8)),
        architecture="vision-decoder",
    )
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    write_zeros(folder / EYES_NAME, {"projector.0.weight": (2, 2)})
    return folder


def write_zeros(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of zeros in float32, by name."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    file.write_bytes(safetensors_bytes(header, num_bytes=end))
