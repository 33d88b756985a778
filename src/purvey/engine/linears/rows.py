"""Linear layers whose rows do not know each other: bit for bit, whatever is in the batch.

`torch.nn.functional.linear` in float32 gives a row other bits at 1, 2 and 3 rows than at
many (measured: torch 2.13, MKL, Zen 4), and `silu` gives the last elements of a tensor
other bits than the rest. oneDNN's kernels over a prepacked weight do neither: a row's
result was equal at every count from 1 to 512 rows, with 1 and 2 threads, and they are as
fast or faster from width 288 on. They are what serves here; where the build lacks them,
`BlockedLinear` computes in blocks of a constant number of rows, which was measured to be
stable too, and slower.

Shape letters, this file only:
    T = rows   I = input features   O = output features
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, pad, silu

from purvey.models.config import Activation

_BLOCK_ROWS = 8
_FUSED: dict[Activation, tuple[str, str]] = {
    "silu": ("swish", ""),
    "gelu_tanh": ("gelu", "tanh"),
    "gelu": ("gelu", "none"),
    "relu": ("relu", ""),
}
"""oneDNN's operation and its algorithm."""


class RowLinear(Protocol):
    """`x_TI @ weight_OI.T + bias_O`, float32 on CPU, each row by itself."""

    @property
    def num_bytes(self) -> int:
        """Memory of its weights."""
        ...

    def __call__(self, x_TI: Tensor) -> Tensor:
        """Return `y_TO`."""
        ...

    def activated(self, x_TI: Tensor, activation: Activation) -> Tensor:
        """Return `activation(y_TO)`."""
        ...

    def times(self, x_TI: Tensor, other_TO: Tensor) -> Tensor:
        """Return `y_TO * other_TO`."""
        ...


def row_linear(weight_OI: Tensor, bias_O: Tensor | None = None) -> RowLinear:
    """Build the fastest row-stable layer that this build of torch offers.

    Args:
        weight_OI: Weights, float32 on CPU; copied into the kernel's own layout where it packs.
        bias_O: Added to every row, if given.
    """
    if has_packed_kernels():
        return PackedLinear(weight_OI, bias_O)
    return BlockedLinear(weight_OI, bias_O)


def has_packed_kernels() -> bool:
    """Tell whether oneDNN's prepacked linear exists here; it is not public API of torch."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class PackedLinear:
    """oneDNN over a weight that is packed once, with SiLU and products fused behind it."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().float())
        self.num_bytes = weight_OI.numel() * torch.float32.itemsize
        self._bias_O = None if bias_O is None else bias_O.detach().float()

    def __call__(self, x_TI: Tensor) -> Tensor:
        """Return `y_TO`."""
        return self._run(x_TI, "none", "")

    def activated(self, x_TI: Tensor, activation: Activation) -> Tensor:
        """Return `activation(y_TO)`."""
        return self._run(x_TI, *_FUSED[activation])

    def times(self, x_TI: Tensor, other_TO: Tensor) -> Tensor:
        """Return `y_TO * other_TO`."""
        product_TO: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x_TI, other_TO, self._packed, self._bias_O, "mul"
        )
        return product_TO

    def _run(self, x_TI: Tensor, operation: str, algorithm: str) -> Tensor:
        y_TO: Tensor = torch.ops.mkldnn._linear_pointwise.default(
            x_TI, self._packed, self._bias_O, operation, [], algorithm
        )
        return y_TO


class BlockedLinear:
    """Plain torch on blocks of a constant number of rows; the last block is filled with zeros."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self._weight_OI = weight_OI.detach().float().clone()
        self.num_bytes = self._weight_OI.nbytes
        self._bias_O = None if bias_O is None else bias_O.detach().float().clone()

    def __call__(self, x_TI: Tensor) -> Tensor:
        """Return `y_TO`."""
        num_rows = x_TI.shape[0]
        filled_TI = pad(x_TI, (0, 0, 0, -num_rows % _BLOCK_ROWS))
        blocks = torch.split(filled_TI, _BLOCK_ROWS)
        computed = [linear(rows, self._weight_OI, self._bias_O) for rows in blocks]
        return torch.cat(computed)[:num_rows]

    def activated(self, x_TI: Tensor, activation: Activation) -> Tensor:
        """Return `activation(y_TO)`, row by row: a tensor's tail is rounded differently."""
        return torch.stack([_PLAIN[activation](row) for row in self(x_TI)])

    def times(self, x_TI: Tensor, other_TO: Tensor) -> Tensor:
        """Return `y_TO * other_TO`."""
        return self(x_TI) * other_TO


_PLAIN: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": silu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
    "gelu": gelu,
    "relu": torch.relu,
}
