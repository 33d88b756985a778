"""8-bit layers on oneDNN: ready 20 times sooner than packed ones, with the same bits.

`quantized.linear_dynamic` packs its weights at some 200 MB/s, which is most of a cold start, and
cannot take them packed. oneDNN packs at gigabytes a second, and computes the same integers where
rows are given as it takes them on every processor, without a sign:

    q_TI = round(x_TI * factor_T + z)        z = levels + 1, the operator's own zero point
    y_TO = (sum_I q_TI * q_OI - z * sum_I q_OI) * scale_O

Processors without VNNI add pairs of products in 16 bits; with 63 levels these fit: 2 x 127 x 127.

Shape letters, this file only:
    T = rows   I = input features   O = output features
"""

from functools import cache

import torch
from torch import Tensor

from purvey.engine.linears.int8 import _MARGIN, DynamicInt8, _Int8, dynamic_levels

_WEIGHT_LEVELS = 127
_PROBED_ROWS = (1, 2, 5, 16, 33)


class ShiftedInt8(_Int8):
    """What `DynamicInt8` computes, by another kernel; to be used where `is_exact` says so.

    Args:
        q_OI: Weights, int8 in [-127, 127].
        scale_O: Of each output, float32.
        bias_O: Added to every row, if given.
        levels: As of the other.
    """

    def __init__(
        self, q_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None = None, *, levels: int
    ) -> None:
        super().__init__(q_OI, scale_O, bias_O, levels=levels * _MARGIN)
        self._zero_point = levels + 1
        self._packed = torch.ops.onednn.qlinear_prepack(q_OI, None)
        self._zeros_O = torch.zeros(len(q_OI), dtype=torch.int32)

    def _products(self, x_TI: Tensor, factor_T1: Tensor) -> Tensor:
        shifted_TI = torch.mul(x_TI, factor_T1).add_(float(self._zero_point)).round_()
        rows = (shifted_TI.to(torch.uint8), 1.0, self._zero_point)
        weights = (self._packed, self._scale_O, self._zeros_O)
        y_TO: Tensor = torch.ops.onednn.qlinear_pointwise.default(
            *rows, *weights, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return y_TO


@cache
def is_exact() -> bool:
    """Try whether both kernels give the same bits here, with the largest sums and with random."""
    levels = dynamic_levels()
    if levels is None or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return False
    generator = torch.Generator().manual_seed(0)
    largest_OI = torch.full((32, 320), _WEIGHT_LEVELS, dtype=torch.int8)
    largest_OI[1::2] = -_WEIGHT_LEVELS
    random_OI = torch.randint(-_WEIGHT_LEVELS, 128, (96, 320), generator=generator)
    q_OI = torch.cat((largest_OI, random_OI.to(torch.int8)))
    scale_O = torch.rand(len(q_OI), generator=generator)
    x_TI = torch.randn((max(_PROBED_ROWS), 320), generator=generator)
    x_TI[0], x_TI[1] = 1.0, -1.0
    try:
        shifted = ShiftedInt8(q_OI, scale_O, levels=levels)
        expected_TO = DynamicInt8(q_OI, scale_O, levels=levels)(x_TI)
        return all(torch.equal(shifted(x_TI[:n]), expected_TO[:n]) for n in _PROBED_ROWS)
    except RuntimeError:
        return False
