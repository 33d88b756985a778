"""Adapters as `peft` writes them, of random numbers."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {  # arguments of peft's LoraConfig
    "all": {"r": 16, "lora_alpha": 24, "target_modules": ALL},
    "narrow": {"r": 4, "lora_alpha": 12, "target_modules": ALL},
    "queries, values": {"r": 8, "lora_alpha": 20, "target_modules": ["q_proj", "v_proj"]},
    "keys": {"r": 5, "lora_alpha": 15, "target_modules": ["k_proj"]},
    "attention": {"r": 12, "lora_alpha": 18, "target_modules": ALL[:4]},
    "mlp": {"r": 16, "lora_alpha": 16, "target_modules": ALL[4:]},
    "one layer": {"r": 7, "lora_alpha": 30, "target_modules": ["up_proj", "o_proj"]}
    | {"layers_to_transform": [1]},
    "wide": {"r": 20, "lora_alpha": 9, "target_modules": ALL, "use_rslora": True},
}
"""Eight, of ranks 4 to 20 and different layers."""


def write(model: PreTrainedModel, folder: Path, *, seed: int, kind: str) -> PreTrainedModel:
    """Write a random adapter of a model; return the model with the adapter merged."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **KINDS[kind]))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0.0, 0.08, generator=generator)
    adapted.save_pretrained(folder)
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged.eval()
