"""16 levels for each group of weights: the rounding, and a frozen layer that is trained through.

    weight_OI = (q_OI - 8) * scale_OG + zero_OG        q_OI in 0..15, one scale and zero a group

With a scale and a zero in bfloat16 for 32 weights, a weight takes 5 bits.

Shape letters, this file only:
    T = rows   I = input features   O = output features   G = groups of a row of weights
    S = outputs of one tile
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from purvey.models.linears.tiles import output_slices

GROUP_INPUTS = 32
LEVELS = 16
_HALF = GROUP_INPUTS // 2
_TINY = 1e-30
_TILE_WEIGHTS = 2**18
"""Weights that are restored at once: 1 MiB, which stays in a core's cache."""


class Int4Linear(nn.Module):
    """A frozen linear layer in 5 bits a weight; gradients pass through it to its input.

    The product is computed with weights restored tile by tile, in the input's dtype; at no time
    are all of them there. Nothing of it is in a `state_dict`: it is made from the base again.

    Args:
        linear: What it replaces; unchanged.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        filled_OI = pad(linear.weight.detach(), (0, -self.in_features % GROUP_INPUTS))
        q_OI, scale_OG, zero_OG = quantise_groups(filled_OI)
        self.packed_OGH = nn.Buffer(_packed(q_OI), persistent=False)
        self.scale_OG = nn.Buffer(scale_OG, persistent=False)
        self.zero_OG = nn.Buffer(zero_OG, persistent=False)
        bias = linear.bias
        self.bias: Tensor | None = (
            None if bias is None else nn.Buffer(bias.detach().clone(), persistent=False)
        )

    @property
    def num_bytes(self) -> int:
        """Memory of its weights."""
        return sum(buffer.nbytes for buffer in self.buffers())

    @property
    def num_weights(self) -> int:
        """Weights that it stands for, without the bias."""
        return self.out_features * self.in_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        y: Tensor = _Product.apply(x.reshape(-1, self.in_features), self)  # type: ignore[no-untyped-call]  # torch
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def tiles(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Yield the restored weights `tile_SI` of some outputs after the other."""
        step = max(1, _TILE_WEIGHTS // self.in_features)
        for start in range(0, self.out_features, step):
            outputs = slice(start, start + step)
            packed_SGH = self.packed_OGH[outputs]
            tile_SGI = packed_SGH.new_empty(
                (*packed_SGH.shape[:2], GROUP_INPUTS), dtype=torch.float32
            )
            tile_SGI[..., :_HALF] = packed_SGH & (LEVELS - 1)
            tile_SGI[..., _HALF:] = packed_SGH >> 4
            tile_SGI.sub_(LEVELS // 2).mul_(self.scale_OG[outputs, :, None].float())
            tile_SGI.add_(self.zero_OG[outputs, :, None].float())
            yield outputs, tile_SGI.flatten(1)[:, : self.in_features].to(dtype)


class _Context(Protocol):
    """What torch gives both passes of one call."""

    layer: Int4Linear
    needs_input_grad: tuple[bool, ...]


class _Product(torch.autograd.Function):
    """`x_TI @ weight_OI.T` with weights that are restored again on the way back."""

    @staticmethod
    def forward(ctx: _Context, x_TI: Tensor, layer: Int4Linear) -> Tensor:
        ctx.layer = layer
        y_TO = x_TI.new_empty((len(x_TI), layer.out_features))
        for outputs, tile_SI in layer.tiles(x_TI.dtype):
            y_TO[:, outputs] = x_TI @ tile_SI.T
        return y_TO

    @staticmethod
    def backward(ctx: _Context, grad_TO: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        layer = ctx.layer
        grad_TI = grad_TO.new_zeros((len(grad_TO), layer.in_features))
        for outputs, tile_SI in layer.tiles(grad_TO.dtype):
            grad_TI.addmm_(grad_TO[:, outputs], tile_SI)
        return grad_TI, None


def quantise_groups(weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `q_OI` (int32), `scale_OG` and `zero_OG` (bfloat16), lowest to highest of a group.

    Levels are chosen for the scale and the zero as they are stored, rounded to bfloat16.

    Args:
        weight_OI: A multiple of `GROUP_INPUTS` inputs.
    """
    num_outputs, num_inputs = weight_OI.shape
    q_OI = torch.empty((num_outputs, num_inputs), dtype=torch.int32)
    shape_OG = num_outputs, num_inputs // GROUP_INPUTS
    scale_OG, zero_OG = (torch.empty(shape_OG, dtype=torch.bfloat16) for _ in range(2))
    for outputs in output_slices(weight_OI):
        groups_SGI = weight_OI[outputs].float().reshape(-1, shape_OG[1], GROUP_INPUTS)
        lowest_SG, highest_SG = groups_SGI.amin(2), groups_SGI.amax(2)
        scale_SG = ((highest_SG - lowest_SG) / (LEVELS - 1)).clamp_min_(_TINY).bfloat16()
        zero_SG = (lowest_SG + scale_SG.float() * (LEVELS // 2)).bfloat16()
        centred_SGI = groups_SGI.sub(zero_SG[..., None].float()).div_(scale_SG[..., None].float())
        q_SGI = centred_SGI.add_(LEVELS // 2).round_().clamp_(0, LEVELS - 1)
        q_OI[outputs], scale_OG[outputs], zero_OG[outputs] = q_SGI.flatten(1), scale_SG, zero_SG
    return q_OI, scale_OG, zero_OG


def _packed(q_OI: Tensor) -> Tensor:
    """Return two levels a byte (uint8): the first half of a group low, the second half high."""
    groups_OGI = q_OI.to(torch.uint8).reshape(len(q_OI), -1, GROUP_INPUTS)
    return groups_OGI[..., :_HALF] | (groups_OGI[..., _HALF:] << 4)
