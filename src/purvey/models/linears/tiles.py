"""A layer's weights, some outputs at a time."""

from collections.abc import Iterator

from torch import Tensor

_TILE_WEIGHTS = 2**17
"""Weights that are converted at once: their float32 copies stay in a core's cache."""


def output_slices(weight_OI: Tensor, *, most_weights: int = _TILE_WEIGHTS) -> Iterator[slice]:
    """Cut a layer's outputs into pieces to convert one after the other."""
    num_outputs, num_inputs = weight_OI.shape
    step = max(1, most_weights // num_inputs)
    for start in range(0, num_outputs, step):
        yield slice(start, start + step)
