"""Activations whose bits depend on an element and its place in its row alone.

A vectorised activation rounds the last elements of what it is given otherwise than the rest,
and so it does where threads divide the work. Rows are therefore handed over in pieces that one
thread computes whole, and several at once only where a row fills the vectors.

Shape letters, this file only:
    T = rows   I = input features   O = output features
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from purvey.engine.linears.base import Addition, Projection, joined
from purvey.models.config import Activation

SERIAL_ELEMENTS = 24_576
"""Torch gives no second thread to fewer than 25,600 (GELU) or 32,768 (others)."""
_VECTOR_ELEMENTS = 32
"""Floats that the widest vectorised loop takes at once: two AVX-512 registers."""
_IN_PLACE: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": torch.ops.aten.silu_.default,
    "gelu_tanh": partial(torch.ops.aten.gelu_.default, approximate="tanh"),
    "gelu": torch.ops.aten.gelu_.default,
    "relu": torch.ops.aten.relu_.default,
}


class Gate:
    """`act(gate(x)) * up(x)`, both of one layer that gives them side by side.

    Args:
        joined: Its first half of outputs is the gate, the second what passes.
        activation: Of the gate.
    """

    def __init__(self, joined: Projection, activation: Activation) -> None:
        self._joined, self._activation = joined, activation

    @property
    def num_bytes(self) -> int:
        """Memory of its weights."""
        return self._joined.num_bytes

    def __call__(self, x_TI: Tensor, addition: Addition | None = None) -> Tensor:
        """Return `y_TO`."""
        joined_TO = self._joined(x_TI)
        if addition is not None:
            addition.add_(x_TI, joined_TO)
        gate_TO, up_TO = joined_TO.chunk(2, dim=1)
        activate_rows_(gate_TO, self._activation)
        return gate_TO * up_TO


def activate_rows_(x_TI: Tensor, activation: Activation) -> None:
    """Apply an activation in place; elements of a row are neighbours in memory."""
    activate = _IN_PLACE[activation]
    num_rows, width = x_TI.shape
    is_aligned = width % _VECTOR_ELEMENTS == 0
    step = max(1, SERIAL_ELEMENTS // width) if is_aligned else 1
    for start in range(0, num_rows, step):
        activate(x_TI[start : start + step])


def joined_gate(
    gate: torch.nn.Linear,
    up: torch.nn.Linear,
    activation: Activation,
    *,
    linear: Callable[[Tensor, Tensor | None], Projection],
) -> Gate:
    """Build a gate of two layers with one pass over their input."""
    bias_O = None if gate.bias is None else joined((gate.bias, up.bias))
    return Gate(linear(joined((gate.weight, up.weight)), bias_O), activation)
