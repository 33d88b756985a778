"""Tiny random networks for images and sounds, as `transformers` writes them."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
)

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 12,
    "patch_size": 4,
    "initializer_range": 0.3,
}
PREPARED = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
HEARS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "conv_dim": (16, 16),
    "conv_kernel": (40, 16),
    "conv_stride": (20, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
    "mask_time_length": 2,
}


def write_vit(folder: Path, *, labels: dict[int, str] | None) -> Any:
    """Write a vision transformer, with a head where there are labels, and return it."""
    torch.manual_seed(4)
    config = ViTConfig(**SIZES, **({"id2label": labels} if labels else {}))
    model = (ViTForImageClassification if labels else ViTModel)(config).eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARED))
    return model


def write_hearing(folder: Path, *, labels: dict[int, str] | None, **more: Any) -> Any:
    """Write what hears samples, with a head where there are labels, and return it."""
    torch.manual_seed(4)
    config = Wav2Vec2Config(**HEARS, **({"id2label": labels} if labels else {}), **more)
    model = (Wav2Vec2ForSequenceClassification if labels else Wav2Vec2Model)(config).eval()
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=more.get("feat_extract_norm") != "group").save_pretrained(
        folder
    )
    return model
