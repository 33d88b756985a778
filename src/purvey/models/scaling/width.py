"""A wider decoder that computes the same function.

The wide stream is the small one several times over (`copies.py`), and so are the heads and the
inside of the MLP (Chen et al. 2022, bert2BERT). RMSNorm of a repeated vector is the repeated norm,
heads keep their size and so their rotation, and copies of query heads stand before the copies of
the key heads that they read.

Shape letters, this file only:
    D = residual width
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.scaling.copies import divided, repeated
from purvey.models.skeleton import skeleton

Change = Literal["kept", "repeated", "divided"]
"""What becomes of a weight: it stays, is several times there, or is divided among copies."""
_FINAL_GAIN = "norm.weight"
_TABLES = ("embed_tokens.weight", "lm_head.weight")
_HEAD_NORMS = ("q_norm.weight", "k_norm.weight")


def widened_config(config: DecoderConfig, factor: int) -> DecoderConfig:
    """Return the shape of a decoder `factor` times as wide; heads keep their size."""
    width = config.hidden_size * factor
    return replace(
        config,
        hidden_size=width,
        mlp_size=config.mlp_size * factor,
        num_heads=config.num_heads * factor,
        num_kv_heads=config.num_kv_heads * factor,
        # A Gemma's follows its width, and its folder cannot say otherwise.
        embedding_scale=width**0.5 if _scales_by_width(config) else config.embedding_scale,
    )


def change_of(name: str) -> Change:
    """Tell what widening does to the weight of that name."""
    if name.endswith(_HEAD_NORMS):
        return "kept"
    return "divided" if name == _FINAL_GAIN or name.endswith("_proj.weight") else "repeated"


@torch.no_grad()
def widened(decoder: Decoder, factor: int, *, generator: torch.Generator) -> Decoder:
    """Return a decoder `factor` times as wide with the logits of this one, up to rounding.

    Args:
        decoder: Float32; it stays as it is.
        factor: At least 1.
        generator: Of the unequal shares.
    """
    config = decoder.config
    wide = skeleton(widened_config(config, factor))
    shrunk = config.embedding_scale / wide.config.embedding_scale
    state: dict[str, Tensor] = {}
    for name, weight in decoder.state_dict().items():
        if name == _FINAL_GAIN:
            total = 1.0 / shrunk if config.is_tied else 1.0
            state[name] = _divided_gain(weight, factor, total=total, offset=config.norm_offset)
        elif name in _TABLES:
            scale = shrunk if name == _TABLES[0] else 1.0
            state[name] = repeated(weight * scale, factor, dim=1)
        elif change_of(name) == "divided":
            state[name] = divided(weight, outputs=factor, inputs=factor, generator=generator)
        else:
            state[name] = weight.repeat(1 if change_of(name) == "kept" else factor)
    wide.load_state_dict(state, assign=True)
    return wide.eval().requires_grad_(requires_grad=True)


def _divided_gain(gain_D: Tensor, factor: int, *, total: float, offset: float) -> Tensor:
    """Repeat the last gain, so that all copies of the stream give `total` times its logits."""
    return ((gain_D + offset) * (total / factor) - offset).repeat(factor)


def _scales_by_width(config: DecoderConfig) -> bool:
    return config.family.startswith("gemma")
