"""Rotary position embedding (Su et al. 2021), as the Llama family computes it.

Shape letters, this file only:
    T = packed tokens   N = heads   H = head width   F = H / 2 frequencies
"""

import math

import torch
from torch import Tensor

from purvey.models.config import DecoderConfig, LinearScaling, Llama3Scaling, Rope, YarnScaling

Angles = tuple[Tensor, Tensor] | None
"""`cos_T1H` and `sin_T1H` of packed tokens; None where a layer does not rotate."""


class Rotary:
    """The rotary angles of a decoder's layers, computed once for each kind of layer.

    Args:
        config: Says which layer has which embedding.
    """

    def __init__(self, config: DecoderConfig) -> None:
        self._ropes = [config.rope_of(layer) for layer in range(config.num_layers)]
        self._frequencies = {
            rope: frequencies(rope, config.head_size) for rope in self._ropes if rope is not None
        }

    def angles(self, positions_T: Tensor) -> list[Angles]:
        """Return the angles of every layer at these positions, on their device."""
        known: dict[Rope | None, Angles] = {None: None}
        for rope, frequencies_F in self._frequencies.items():
            scale = magnitude(rope)
            known[rope] = angles(positions_T, frequencies_F.to(positions_T.device), scale=scale)
        return [known[rope] for rope in self._ropes]


def frequencies(rope: Rope, head_size: int) -> Tensor:
    """Return `frequencies_F` in float32 on the CPU: `theta ** (-2 i / H)`, stretched if asked."""
    exponents_F = torch.arange(0, head_size, 2, dtype=torch.float32, device="cpu")
    frequencies_F = 1.0 / rope.theta ** (exponents_F / head_size)
    match rope.scaling:
        case LinearScaling(factor=factor):
            return frequencies_F / factor
        case Llama3Scaling():
            return _stretch(frequencies_F, rope.scaling)
        case YarnScaling():
            return _ramp(frequencies_F, rope.scaling, rope.theta)
        case None:
            return frequencies_F


def magnitude(rope: Rope) -> float:
    """Return the factor on cosine and sine; 1 but for YaRN."""
    return rope.scaling.magnitude if isinstance(rope.scaling, YarnScaling) else 1.0


def angles(positions_T: Tensor, frequencies_F: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """Return `scale` times cosine and sine, `cos_T1H` and `sin_T1H`, in float32.

    Both halves repeat.
    """
    angles_TF = positions_T[:, None].float() * frequencies_F
    angles_T1H = torch.cat((angles_TF, angles_TF), dim=-1)[:, None, :]
    return angles_T1H.cos() * scale, angles_T1H.sin() * scale


def rotate(x_TNH: Tensor, cos_T1H: Tensor, sin_T1H: Tensor) -> Tensor:
    """Rotate every pair (i, i + H/2) by its position's angle."""
    left_TNF, right_TNF = x_TNH.chunk(2, dim=-1)
    turned_TNH = torch.cat((-right_TNF, left_TNF), dim=-1)
    return x_TNH * cos_T1H.to(x_TNH.dtype) + turned_TNH * sin_T1H.to(x_TNH.dtype)


def _stretch(frequencies_F: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Stretch long wavelengths by `factor`, leave short ones, blend between (Llama 3.1)."""
    wavelengths_F = 2 * math.pi / frequencies_F
    turns_F = scaling.original_context_tokens / wavelengths_F
    span = scaling.high_frequency_factor - scaling.low_frequency_factor
    blend_F = ((turns_F - scaling.low_frequency_factor) / span).clamp(0, 1)
    return (1 - blend_F) * frequencies_F / scaling.factor + blend_F * frequencies_F


def _ramp(frequencies_F: Tensor, scaling: YarnScaling, theta: float) -> Tensor:
    """Stretch dimensions that turn `slow_turns` times or less, keep those of `fast_turns`."""
    num_frequencies = frequencies_F.shape[0]
    head_size = 2 * num_frequencies

    def dimension(turns: float) -> float:
        wavelength = scaling.original_context_tokens / (turns * 2 * math.pi)
        return head_size * math.log(wavelength) / (2 * math.log(theta))

    low, high = dimension(scaling.fast_turns), dimension(scaling.slow_turns)
    if scaling.is_truncated:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    span = high - low if high != low else 0.001  # a step, where the paper would divide by zero
    places_F = torch.arange(num_frequencies, dtype=torch.float32, device="cpu")
    stretched_F = ((places_F - low) / span).clamp(0, 1)
    return frequencies_F / scaling.factor * stretched_F + frequencies_F * (1 - stretched_F)
