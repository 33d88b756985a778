"""Rotary position embedding (Su et al. 2021), as the Llama family computes it.

Shape letters, this file only:
    T = packed tokens   N = heads   H = head width   F = H / 2 frequencies
"""

import math

import torch
from torch import Tensor

from purvey.models.config import DecoderConfig, RopeScaling


def frequencies(config: DecoderConfig) -> Tensor:
    """Return `frequencies_F` in float32 on the CPU: `theta ** (-2 i / H)`, stretched if asked."""
    exponents_F = torch.arange(0, config.head_size, 2, dtype=torch.float32, device="cpu")
    frequencies_F = 1.0 / config.rope_theta ** (exponents_F / config.head_size)
    if config.rope_scaling is None:
        return frequencies_F
    return _stretch(frequencies_F, config.rope_scaling)


def angles(positions_T: Tensor, frequencies_F: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, `cos_T1H` and `sin_T1H`, in float32; both halves repeat."""
    angles_TF = positions_T[:, None].float() * frequencies_F
    angles_T1H = torch.cat((angles_TF, angles_TF), dim=-1)[:, None, :]
    return angles_T1H.cos(), angles_T1H.sin()


def rotate(x_TNH: Tensor, cos_T1H: Tensor, sin_T1H: Tensor) -> Tensor:
    """Rotate every pair (i, i + H/2) by its position's angle."""
    left_TNF, right_TNF = x_TNH.chunk(2, dim=-1)
    turned_TNH = torch.cat((-right_TNF, left_TNF), dim=-1)
    return x_TNH * cos_T1H.to(x_TNH.dtype) + turned_TNH * sin_T1H.to(x_TNH.dtype)


def _stretch(frequencies_F: Tensor, scaling: RopeScaling) -> Tensor:
    """Stretch long wavelengths by `factor`, leave short ones, blend between (Llama 3.1)."""
    wavelengths_F = 2 * math.pi / frequencies_F
    turns_F = scaling.original_context_tokens / wavelengths_F
    span = scaling.high_frequency_factor - scaling.low_frequency_factor
    blend_F = ((turns_F - scaling.low_frequency_factor) / span).clamp(0, 1)
    return (1 - blend_F) * frequencies_F / scaling.factor + blend_F * frequencies_F
