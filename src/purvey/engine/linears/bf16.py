"""bfloat16 layers: products of bfloat16 numbers, float32 sums.

oneDNN computes them over a prepacked weight where the processor multiplies bfloat16 itself;
what a row gives is rounded to bfloat16 there. Elsewhere only the memory is halved: weights are
widened slice by slice as they are used, and rows are computed in blocks of a constant number.

Shape letters, this file only:
    T = rows   I = input features   O = output features   S = outputs of a slice
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from purvey.engine.linears.activation import Gate, joined_gate
from purvey.engine.linears.base import Projection
from purvey.engine.linears.rows import has_packed_kernels
from purvey.models.config import Activation
from purvey.models.linears.tiles import output_slices

_BLOCK_ROWS = 8
_NATIVE = ("avx512_bf16", "amx_bf16")
_PROBED_ROWS = (1, 2, 3, 5, 8, 16, 17, 32, 48)


class Bf16Linears:
    """Builds layers of bfloat16 weights."""

    def linear(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> Projection:
        """Build `x_TI @ weight_OI.T + bias_O`."""
        if has_native_bf16() and is_row_stable():
            return PackedBf16(weight_OI, bias_O)
        return WidenedBf16(weight_OI, bias_O)

    def gated(self, gate: torch.nn.Linear, up: torch.nn.Linear, act: Activation) -> Gate:
        """Build `act(gate(x)) * up(x)`."""
        return joined_gate(gate, up, act, linear=self.linear)

    def head(self, weight_OI: Tensor) -> Projection:
        """Build the layer that gives logits."""
        return self.linear(weight_OI)


class PackedBf16:
    """oneDNN over a weight that is packed once."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        stored_OI = weight_OI.detach().bfloat16()
        self.num_bytes = stored_OI.nbytes
        self._num_outputs = len(stored_OI)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(stored_OI)
        self._bias_O = None if bias_O is None else bias_O.detach().float().clone()

    def __call__(self, x_TI: Tensor) -> Tensor:
        """Return `y_TO`, rounded to bfloat16 before the bias."""
        if not len(x_TI):
            return x_TI.new_empty((0, self._num_outputs))
        y_TO: Tensor = torch.ops.mkldnn._linear_pointwise.default(
            x_TI.bfloat16(), self._packed, None, "none", [], ""
        ).float()
        return y_TO if self._bias_O is None else y_TO.add_(self._bias_O)


class WidenedBf16:
    """Float32 products of bfloat16 weights, in blocks of a constant number of rows."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self._weight_OI = weight_OI.detach().bfloat16().clone()
        self.num_bytes = self._weight_OI.nbytes
        self._bias_O = None if bias_O is None else bias_O.detach().float().clone()

    def __call__(self, x_TI: Tensor) -> Tensor:
        """Return `y_TO`."""
        num_rows = len(x_TI)
        filled_TI = pad(x_TI, (0, 0, 0, -num_rows % _BLOCK_ROWS))
        y_TO = x_TI.new_empty((len(filled_TI), len(self._weight_OI)))
        for outputs in output_slices(self._weight_OI):
            wide_SI = self._weight_OI[outputs].float()
            for first in range(0, len(filled_TI), _BLOCK_ROWS):
                rows = slice(first, first + _BLOCK_ROWS)
                y_TO[rows, outputs] = linear(filled_TI[rows], wide_SI)
        y_TO = y_TO[:num_rows]
        return y_TO if self._bias_O is None else y_TO.add_(self._bias_O)


def has_native_bf16() -> bool:
    """Tell whether the processor multiplies bfloat16, not merely a library in its place."""
    capabilities = torch.cpu.get_capabilities()
    is_native = any(capabilities.get(name, False) for name in _NATIVE)
    return has_packed_kernels() and is_native


@cache
def is_row_stable() -> bool:
    """Try whether the packed kernel gives a row the same bits at several counts of rows."""
    generator = torch.Generator().manual_seed(0)
    layer = PackedBf16(torch.randn((384, 512), generator=generator))
    x_TI = torch.randn((max(_PROBED_ROWS), 512), generator=generator)
    whole_TO = layer(x_TI)
    return all(torch.equal(layer(x_TI[:rows]), whole_TO[:rows]) for rows in _PROBED_ROWS)
