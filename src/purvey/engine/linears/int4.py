"""4-bit layers: weights as `models/linears/int4.py` rounds them, rows in bfloat16.

Torch's 4-bit kernel serves every number of rows, though it pays at one or two: it was measured
to give a row the same bits from 1 to 512 rows, and a second kernel for many rows would give it
others. What a row gives is rounded to bfloat16. The head, which decides between words, keeps 8
bits.

Shape letters, this file only:
    T = rows   I = input features   O = output features   G = groups of a row of weights
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from purvey.engine.linears.activation import Gate, joined_gate
from purvey.engine.linears.base import Projection
from purvey.engine.linears.int8 import Int8Linears
from purvey.models.config import Activation
from purvey.models.linears.int4 import GROUP_INPUTS, quantise_groups

_OUTPUT_TILE = 64
_INNER_TILES = 2


class Int4Linears:
    """Builds layers of 4-bit weights; the head has 8."""

    def __init__(self) -> None:
        self._head = Int8Linears()

    def linear(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> Projection:
        """Build `x_TI @ weight_OI.T + bias_O`."""
        return PackedInt4(weight_OI, bias_O)

    def gated(self, gate: torch.nn.Linear, up: torch.nn.Linear, act: Activation) -> Gate:
        """Build `act(gate(x)) * up(x)`."""
        return joined_gate(gate, up, act, linear=self.linear)

    def head(self, weight_OI: Tensor) -> Projection:
        """Build the layer that gives logits."""
        return self._head.head(weight_OI)


class PackedInt4:
    """Torch's 4-bit kernel; shapes that it cannot take are filled with zeros."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self._num_outputs, num_inputs = weight_OI.shape
        self._fill = -num_inputs % GROUP_INPUTS
        filled_OI = pad(weight_OI.detach(), (0, self._fill, 0, -self._num_outputs % _OUTPUT_TILE))
        q_OI, scale_OG, zero_OG = quantise_groups(filled_OI)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q_OI, _INNER_TILES)
        self._scales_GO2 = torch.stack((scale_OG.T, zero_OG.T), dim=2).contiguous()
        self.num_bytes = self._packed.nbytes + self._scales_GO2.nbytes
        self._bias_O = None if bias_O is None else bias_O.detach().float().clone()

    def __call__(self, x_TI: Tensor) -> Tensor:
        """Return `y_TO`, rounded to bfloat16 before the bias."""
        if not len(x_TI):
            return x_TI.new_empty((0, self._num_outputs))
        x_TI = (pad(x_TI, (0, self._fill)) if self._fill else x_TI).bfloat16()
        padded_TO: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x_TI, self._packed, GROUP_INPUTS, self._scales_GO2
        )
        y_TO = padded_TO[:, : self._num_outputs].float()
        return y_TO if self._bias_O is None else y_TO.add_(self._bias_O)
