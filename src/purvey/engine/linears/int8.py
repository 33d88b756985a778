"""8-bit layers: integer products of 8-bit weights and rows that are scaled each by itself.

    scale_O = max |weight_O| / 127            levels = 127, or 63 where the kernel's range is half
    scale_T = max |x_T| / levels
    y_TO    = sum_I round(x_TI / scale_T) * round(weight_OI / scale_O) * scale_T * scale_O + bias_O

The sum is of integers and exact, so no order of it and no neighbour can change a bit.
`quantized.linear_dynamic` is the fastest that computes it here, yet takes one scale for the whole
batch, from its largest and smallest values. So rows are scaled first, and each is made longer by
the extremes that make that scale exactly 1, which meet weights of zero; without them a neighbour 30
times larger raises a row's error from 2 % to 46 %. The operator is marked for removal in torch:
where it is missing, oneDNN's or plain float32 products compute the same integers.

Shape letters, this file only:
    T = rows   I = input features   O = output features   S = outputs of a slice
"""

import threading
import warnings
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from purvey.engine.linears.activation import Gate, joined_gate
from purvey.engine.linears.base import Projection
from purvey.models.config import Activation
from purvey.models.linears.tiles import output_slices

_WEIGHT_LEVELS = 127
LEVELS = (127, 63)
"""What a row may be rounded to; the first that the kernel computes exactly."""
_MARGIN = 1 - 2.0**-20
"""Keeps a scaled row inside the pinned range when its largest value is rounded up."""
_TINY = 1e-30
_EXTREMES = 4
"""The largest, the smallest, and two zeros that keep rows aligned."""
_WIDENED_WEIGHTS = 2**19
"""Widened at once: more rows make up for what leaves a core's cache."""
_KEPT_ROWS = 64
"""Rows that a step which extends outputs has, as a rule."""
_EXACT_INPUTS = 1_024
"""Terms of 127 x 127 whose float32 sum is exact: below 2^24."""


class Int8Linears:
    """Builds layers of 8-bit weights."""

    def linear(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> Projection:
        """Build `x_TI @ weight_OI.T + bias_O`."""
        return int8_layer(*quantise_outputs(weight_OI), bias_O)

    def gated(self, gate: torch.nn.Linear, up: torch.nn.Linear, act: Activation) -> Gate:
        """Build `act(gate(x)) * up(x)`."""
        return joined_gate(gate, up, act, linear=self.linear)

    def head(self, weight_OI: Tensor) -> Projection:
        """Build the layer that gives logits."""
        return self.linear(weight_OI)


def int8_layer(q_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None = None) -> Projection:
    """Build the fastest layer of quantised weights that computes exactly here."""
    levels = dynamic_levels()
    if levels is not None:
        return DynamicInt8(q_OI, scale_O, bias_O, levels=levels)
    if has_exact_onednn():
        return OneDnnInt8(q_OI, scale_O, bias_O)
    return WidenedInt8(q_OI, scale_O, bias_O)


class _Int8:
    """What the kernels share: scales, bias, and how much is held."""

    def __init__(
        self, q_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None, *, levels: float
    ) -> None:
        self.num_bytes = q_OI.nbytes + scale_O.nbytes
        self._num_outputs, self._scale_O = len(q_OI), scale_O
        self._levels = torch.tensor(levels, dtype=torch.float32)
        self._bias_O = None if bias_O is None else bias_O.detach().float().clone()

    def __call__(self, x_TI: Tensor) -> Tensor:
        """Return `y_TO`."""
        if not len(x_TI):
            return x_TI.new_empty((0, self._num_outputs))
        largest_T1 = x_TI.abs().amax(1, keepdim=True)
        factor_T1 = torch.div(self._levels, largest_T1.clamp_min_(_TINY))
        y_TO = self._products(x_TI, factor_T1).div_(factor_T1)
        return y_TO if self._bias_O is None else y_TO.add_(self._bias_O)

    def _products(self, x_TI: Tensor, factor_T1: Tensor) -> Tensor:
        """Return the sums over rounded `x_TI * factor_T1`, times `scale_O`; never `x_TI` itself."""
        raise NotImplementedError


class _Pinned(threading.local):
    """Rows that end with the extremes; those of small steps are kept, one thread's by itself."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._parts: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    def rows(self, num_rows: int, width: int, levels: int) -> tuple[Tensor, Tensor]:
        """Return rows, and the part of them to fill; what they held before is lost."""
        if num_rows > _KEPT_ROWS:
            return _pinned(num_rows, width, levels)
        key = num_rows, width, levels
        if key not in self._parts:
            if (width, levels) not in self._kept:
                with torch.inference_mode(mode=False):  # such tensors are filled in either mode
                    self._kept[width, levels], _ = _pinned(_KEPT_ROWS, width, levels)
            pinned = self._kept[width, levels][:num_rows]
            self._parts[key] = pinned, pinned[:, :width]
        return self._parts[key]


def _pinned(num_rows: int, width: int, levels: int) -> tuple[Tensor, Tensor]:
    pinned = torch.empty((num_rows, width + _EXTREMES))
    # In columns of their own: whatever is not finite in a row stays before them.
    pinned[:, width:] = torch.tensor([levels, -levels - 1, 0, 0], dtype=torch.float32)
    return pinned, pinned[:, :width]


_PINNED = _Pinned()


class DynamicInt8(_Int8):
    """`quantized.linear_dynamic` with its scale pinned to 1.

    Args:
        q_OI: Weights, int8 in [-127, 127].
        scale_O: Of each output, float32.
        bias_O: Added to every row, if given.
        levels: Largest integer of a row: 127, or 63 where products of more would saturate.
    """

    def __init__(
        self, q_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None = None, *, levels: int
    ) -> None:
        super().__init__(q_OI, scale_O, bias_O, levels=levels * _MARGIN)
        longer = pad(q_OI, (0, _EXTREMES))
        self._packed = torch.ops.quantized.linear_prepack(as_quantised(longer, scale_O), None)
        self._is_reduced, self._extreme = levels < _WEIGHT_LEVELS, levels

    def _products(self, x_TI: Tensor, factor_T1: Tensor) -> Tensor:
        num_rows, width = x_TI.shape
        pinned, scaled_TI = _PINNED.rows(num_rows, width, self._extreme)
        torch.mul(x_TI, factor_T1, out=scaled_TI)
        y_TO: Tensor = torch.ops.quantized.linear_dynamic(pinned, self._packed, self._is_reduced)
        return y_TO


class OneDnnInt8(_Int8):
    """`onednn.qlinear_pointwise` on rows that are rounded here; exact only with VNNI."""

    def __init__(self, q_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None = None) -> None:
        super().__init__(q_OI, scale_O, bias_O, levels=_WEIGHT_LEVELS)
        self._packed = torch.ops.onednn.qlinear_prepack(q_OI, None)
        self._zeros_O = torch.zeros(len(q_OI), dtype=torch.int32)

    def _products(self, x_TI: Tensor, factor_T1: Tensor) -> Tensor:
        q_TI = torch.mul(x_TI, factor_T1).round_().to(torch.int8)
        weights = (self._packed, self._scale_O, self._zeros_O)
        y_TO: Tensor = torch.ops.onednn.qlinear_pointwise.default(
            q_TI, 1.0, 0, *weights, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return y_TO


class WidenedInt8(_Int8):
    """The same integers as float32 products, exact within `_EXACT_INPUTS`; slow, runs anywhere."""

    def __init__(self, q_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None = None) -> None:
        super().__init__(q_OI, scale_O, bias_O, levels=_WEIGHT_LEVELS)
        self._q_OI = q_OI

    def _products(self, x_TI: Tensor, factor_T1: Tensor) -> Tensor:
        q_TI = torch.mul(x_TI, factor_T1).round_()
        y_TO = x_TI.new_empty((len(x_TI), self._num_outputs))
        for outputs in output_slices(self._q_OI, most_weights=_WIDENED_WEIGHTS):
            y_TO[:, outputs] = _integer_products(q_TI, self._q_OI[outputs])
        return y_TO.mul_(self._scale_O)


def quantise_outputs(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Return `q_OI` (int8) and `scale_O` (float32); widened slice by slice, never as a whole."""
    q_OI = torch.empty(weight_OI.shape, dtype=torch.int8)
    scale_O = torch.empty(len(weight_OI))
    for outputs in output_slices(weight_OI):
        wide_SI = weight_OI[outputs].detach().float()
        scale_S = wide_SI.abs().amax(1).clamp_min_(_TINY) / _WEIGHT_LEVELS
        q_OI[outputs] = (wide_SI / scale_S[:, None]).round_()
        scale_O[outputs] = scale_S
    return q_OI, scale_O


@cache
def dynamic_levels() -> int | None:
    """Try what `quantized.linear_dynamic` computes exactly here: 127, 63, or nothing (None).

    Processors without VNNI add pairs of products in 16 bits, and 127 x 255 + 127 x 255 is more.
    """
    if not has_dynamic():
        return None
    for levels in LEVELS:
        if _is_exact(DynamicInt8(*_largest_weights(), levels=levels), levels):
            return levels
    return None


def has_dynamic() -> bool:
    """Tell whether `quantized.linear_dynamic` and what packs its weights exist here."""
    has_operator = hasattr(torch.ops.quantized, "linear_dynamic")
    has_tensors = hasattr(torch, "_make_per_channel_quantized_tensor")
    return has_operator and has_tensors and "x86" in torch.backends.quantized.supported_engines


@cache
def has_exact_onednn() -> bool:
    """Try whether `onednn.qlinear_pointwise` computes integers exactly here."""
    if not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return False
    return _is_exact(OneDnnInt8(*_largest_weights()), _WEIGHT_LEVELS)


def as_quantised(q_OI: Tensor, scale_O: Tensor) -> Tensor:
    """Return weights as the tensor that `quantized.linear_prepack` takes."""
    zeros_O = torch.zeros(len(q_OI), dtype=torch.int64)
    with warnings.catch_warnings():  # of the removal, for which there is a fallback
        warnings.filterwarnings(
            "ignore", message=".*quantized tensor creation", category=UserWarning
        )
        return torch._make_per_channel_quantized_tensor(q_OI, scale_O.double(), zeros_O, 0)


def _largest_weights() -> tuple[Tensor, Tensor]:
    q_OI = torch.full((32, 64), _WEIGHT_LEVELS, dtype=torch.int8)
    q_OI[1::2] = -_WEIGHT_LEVELS
    q_OI[5, ::3] = 11  # odd sums too: a kernel that halves weights is found out
    return q_OI, torch.ones(32)


def _is_exact(layer: _Int8, levels: int) -> bool:
    q_OI, _ = _largest_weights()
    x_TI = torch.full((3, 64), float(levels))
    x_TI[1] = -levels
    x_TI[2, 1::2] = 1.0
    expected_TO = (x_TI.double() @ q_OI.double().T).float()
    try:
        found_TO = layer._products(x_TI, torch.ones((3, 1)))
    except RuntimeError:
        return False
    return torch.equal(found_TO, expected_TO)


def _integer_products(q_TI: Tensor, q_SI: Tensor) -> Tensor:
    """Return sums of integers as float32, rounded once; `q_TI` holds them in float32 too."""
    wide_SI = q_SI.float()
    if q_SI.shape[1] <= _EXACT_INPUTS:
        return linear(q_TI, wide_SI)
    sum_TS = torch.zeros((len(q_TI), len(q_SI)), dtype=torch.int32)
    for first in range(0, q_SI.shape[1], _EXACT_INPUTS):
        inputs = slice(first, first + _EXACT_INPUTS)
        sum_TS += linear(q_TI[:, inputs], wide_SI[:, inputs]).to(torch.int32)
    return sum_TS.float()
