"""Float32 layers: `engine/linear.py`, with activation and product fused behind a gate."""

import torch
from torch import Tensor

from purvey.engine.linear import RowLinear, row_linear
from purvey.engine.linears.base import Projection
from purvey.models.config import Activation


class Float32Linears:
    """Builds layers of float32 weights."""

    def linear(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> Projection:
        """Build `x_TI @ weight_OI.T + bias_O`."""
        return row_linear(weight_OI, bias_O)

    def gated(self, gate: torch.nn.Linear, up: torch.nn.Linear, act: Activation) -> Projection:
        """Build `act(gate(x)) * up(x)`."""
        return _FusedGate(row_linear(gate.weight, gate.bias), row_linear(up.weight, up.bias), act)

    def head(self, weight_OI: Tensor) -> Projection:
        """Build the layer that gives logits."""
        return row_linear(weight_OI)


class _FusedGate:
    def __init__(self, gate: RowLinear, up: RowLinear, activation: Activation) -> None:
        self._gate, self._up, self._activation = gate, up, activation

    @property
    def num_bytes(self) -> int:
        return self._gate.num_bytes + self._up.num_bytes

    def __call__(self, x_TI: Tensor) -> Tensor:
        return self._up.times(x_TI, self._gate.activated(x_TI, self._activation))
