"""Weights of a wider network that computes the same: there several times, or divided among copies.

A vector that is `M` times as wide is the narrow one `M` times side by side (Chen et al. 2016,
Net2Wider). What gives it repeats its outputs. What reads it divides its weights among the copies,
in unequal shares: with equal ones the copies would have equal gradients for ever.

Shape letters, this file only:
    O, I = outputs and inputs   M = copies of the inputs   ... = places of a kernel, if any
    A = vectors that the inputs are, end to end
"""

from math import sqrt

import torch
from torch import Tensor


def repeated(weight: Tensor, factor: int, *, dim: int = 0) -> Tensor:
    """Return a weight `factor` times along one dimension."""
    counts = [1] * weight.dim()
    counts[dim] = factor
    return weight.repeat(counts)


def divided(
    weight: Tensor, *, outputs: int, inputs: int, generator: torch.Generator, vectors: int = 1
) -> Tensor:
    """Repeat outputs, and divide a weight among the copies of its inputs.

    A share is `1 / M` of the weight and noise, which is zero over all shares. It is drawn so that
    the wide weight has about the deviation of a fresh one of its size, `M ** -0.5` of the small
    one's.

    Args:
        weight: `w_OI...`.
        outputs: Times that each output is there.
        inputs: M.
        generator: Of the unequal shares.
        vectors: A; each of them is there M times before the next one begins.
    """
    num_outputs, num_inputs, *places = weight.shape
    wide, part = num_outputs * outputs, num_inputs // vectors
    copies = repeated(weight, outputs).reshape(wide, vectors, 1, part, *places) / inputs
    sizes = (wide, vectors, inputs, part, *places)
    noise = torch.randn(sizes, generator=generator)
    noise -= noise.mean(2, keepdim=True)
    deviation = float(weight.std(correction=0)) / sqrt(inputs)
    return (copies + noise * deviation).flatten(1, 3)
