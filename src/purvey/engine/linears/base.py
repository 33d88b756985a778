"""What a served decoder asks of its linear layers, whatever they are computed in.

Shape letters, this file only:
    T = rows   I = input features   O = output features   R = rows that are added to
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from purvey.models.config import Activation


class Projection(Protocol):
    """Float32 rows in, float32 rows out, each with the same bits in any company."""

    @property
    def num_bytes(self) -> int:
        """Memory of its weights."""
        ...

    def __call__(self, x_TI: Tensor) -> Tensor:
        """Return `y_TO`; `x_TI` is contiguous and may have no rows."""
        ...


class Addition(Protocol):
    """What is added to some rows of a joined gate before it is activated (`adapters/`)."""

    @property
    def rows_R(self) -> Tensor:  # noqa: N802 (tensors carry their axes)
        """Return which rows, in order."""
        ...

    def add_(self, x_TI: Tensor, y_TO: Tensor) -> None:
        """Add to the outputs, in place: the gate's, then those that pass."""
        ...


class GatedProjection(Projection, Protocol):
    """`act(gate(x)) * up(x)`, with what is added to both."""

    def __call__(self, x_TI: Tensor, addition: Addition | None = None) -> Tensor:
        """Return `y_TO`; a row that is not added to has the same bits as without `addition`."""
        ...


class LinearFactory(Protocol):
    """Turns weights, in whatever dtype they were stored, into the layers of one precision."""

    def linear(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> Projection:
        """Build `x_TI @ weight_OI.T + bias_O`."""
        ...

    def gated(self, gate: torch.nn.Linear, up: torch.nn.Linear, act: Activation) -> GatedProjection:
        """Build `act(gate(x)) * up(x)` of two layers of one shape, both with a bias or neither."""
        ...

    def head(self, weight_OI: Tensor) -> Projection:
        """Build the layer that gives logits."""
        ...


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Lay the outputs of layers side by side; what has no memory (meta device) stays so."""
    if not parts[0].is_meta:
        return torch.cat(list(parts))
    num_outputs = sum(len(part) for part in parts)  # the operator would import torch's compiler
    return torch.empty((num_outputs, *parts[0].shape[1:]), dtype=parts[0].dtype, device="meta")
