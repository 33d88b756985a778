"""Float32 layers: `rows.py`, with activation and product fused behind a gate.

Shape letters, this file only:
    T = rows   I = input features   O = output features   R = rows that are added to
"""

import torch
from torch import Tensor

from purvey.engine.linears.activation import activate_rows_
from purvey.engine.linears.base import Addition, Projection
from purvey.engine.linears.rows import RowLinear, row_linear
from purvey.models.config import Activation


class Float32Linears:
    """Builds layers of float32 weights."""

    def linear(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> Projection:
        """Build `x_TI @ weight_OI.T + bias_O`."""
        return row_linear(weight_OI, bias_O)

    def gated(self, gate: torch.nn.Linear, up: torch.nn.Linear, act: Activation) -> "FusedGate":
        """Build `act(gate(x)) * up(x)`."""
        return FusedGate(row_linear(gate.weight, gate.bias), row_linear(up.weight, up.bias), act)

    def head(self, weight_OI: Tensor) -> Projection:
        """Build the layer that gives logits."""
        return row_linear(weight_OI)


class FusedGate:
    """`act(gate(x)) * up(x)`, both within their kernels where nothing comes between."""

    def __init__(self, gate: RowLinear, up: RowLinear, activation: Activation) -> None:
        self._gate, self._up, self._activation = gate, up, activation

    @property
    def num_bytes(self) -> int:
        """Memory of its weights."""
        return self._gate.num_bytes + self._up.num_bytes

    def __call__(self, x_TI: Tensor, addition: Addition | None = None) -> Tensor:
        """Return `y_TO`."""
        if addition is None:
            return self._up.times(x_TI, self._gate.activated(x_TI, self._activation))
        rows_R, others_R = addition.rows_R, _others(addition.rows_R, len(x_TI))
        added_RO = self._added(x_TI, addition)
        y_TO = x_TI.new_empty((len(x_TI), added_RO.shape[1]))
        y_TO[rows_R] = added_RO
        if len(others_R):
            y_TO[others_R] = self(x_TI[others_R])
        return y_TO

    def _added(self, x_TI: Tensor, addition: Addition) -> Tensor:
        x_RI = x_TI[addition.rows_R]
        joined_RO = torch.cat((self._gate(x_RI), self._up(x_RI)), dim=1)
        joined_TO = joined_RO.new_zeros((len(x_TI), joined_RO.shape[1]))
        joined_TO[addition.rows_R] = joined_RO
        addition.add_(x_TI, joined_TO)
        gate_RO, up_RO = joined_TO[addition.rows_R].chunk(2, dim=1)
        activate_rows_(gate_RO, self._activation)
        return gate_RO * up_RO


def _others(rows_R: Tensor, num_rows: int) -> Tensor:
    is_other_T = torch.ones(num_rows, dtype=torch.bool)
    is_other_T[rows_R] = False
    return is_other_T.nonzero().flatten()
