"""What a served decoder asks of its linear layers, whatever they are computed in.

Shape letters, this file only:
    T = rows   I = input features   O = output features
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from purvey.models.config import Activation

_SLICE_WEIGHTS = 2**17
"""Weights that are converted at once: their float32 copies stay in a core's cache."""


class Projection(Protocol):
    """Float32 rows in, float32 rows out, each with the same bits in any company."""

    @property
    def num_bytes(self) -> int:
        """Memory of its weights."""
        ...

    def __call__(self, x_TI: Tensor) -> Tensor:
        """Return `y_TO`; `x_TI` is contiguous and may have no rows."""
        ...


class LinearFactory(Protocol):
    """Turns weights, in whatever dtype they were stored, into the layers of one precision."""

    def linear(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> Projection:
        """Build `x_TI @ weight_OI.T + bias_O`."""
        ...

    def gated(self, gate: torch.nn.Linear, up: torch.nn.Linear, act: Activation) -> Projection:
        """Build `act(gate(x)) * up(x)` of two layers of one shape, both with a bias or neither."""
        ...

    def head(self, weight_OI: Tensor) -> Projection:
        """Build the layer that gives logits."""
        ...


def output_slices(weight_OI: Tensor) -> Iterator[slice]:
    """Cut a layer's outputs into pieces to convert one after the other."""
    num_outputs, num_inputs = weight_OI.shape
    step = max(1, _SLICE_WEIGHTS // num_inputs)
    for start in range(0, num_outputs, step):
        yield slice(start, start + step)
