"""Linear layers on a CUDA device, each row by itself.

cuBLAS chooses another kernel, with sums in another order, for another number of rows. Here one
kernel serves every number: it adds up a row's products in the order of the inputs, and where a
layer is too narrow to fill the device its inputs are split at constant places. So a row has the
same bits in any company, whichever tile it is computed in (`tests/gpu` compares them).

Shape letters, this file only:
    T = rows   I = input features   O = output features   S = splits
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from purvey.engine.cuda.kernels import linear_partials

_WAVES = 1


@dataclass(frozen=True, kw_only=True)
class TileShape:
    """How a layer is cut: rows, outputs and inputs of a tile, and the kernel's pipeline."""

    rows: int
    outputs: int
    inputs: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, kw_only=True)
class TileShapes:
    """The tile for few rows, which also decides where inputs are split, and that for many."""

    few: TileShape
    many: TileShape

    def of(self, num_rows: int) -> TileShape:
        """Return the tile for a number of rows."""
        return self.few if num_rows <= self.few.rows else self.many


_FLOAT32 = TileShape(rows=16, outputs=32, inputs=32, num_warps=4, num_stages=2)
TILES = {
    torch.bfloat16: TileShapes(
        few=TileShape(rows=64, outputs=64, inputs=128, num_warps=4, num_stages=4),
        many=TileShape(rows=128, outputs=256, inputs=64, num_warps=8, num_stages=4),
    ),
    torch.float32: TileShapes(few=_FLOAT32, many=_FLOAT32),
}
"""By dtype of weights; the fastest of those that were measured on an H100."""


@dataclass(frozen=True, kw_only=True)
class Partials:
    """A linear layer's output before its splits are added up.

    Args:
        sums_STO: Float32.
        bias_O: To be added once, float32.
    """

    sums_STO: Tensor  # noqa: N815 (tensors carry their axes)
    bias_O: Tensor | None  # noqa: N815 (tensors carry their axes)

    @property
    def num_splits(self) -> int:
        """S."""
        return self.sums_STO.shape[0]

    def total(self) -> Tensor:
        """Return `y_TO` in float32."""
        y_TO = self.sums_STO[0]
        for part_TO in self.sums_STO[1:]:
            y_TO = y_TO + part_TO
        return y_TO if self.bias_O is None else y_TO + self.bias_O


class CudaLinear:
    """`x_TI @ weight_OI.T + bias_O`, products in the weights' dtype and sums in float32.

    Args:
        weight_OI: On the device, bfloat16 or float32.
        bias_O: Kept in float32.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self.weight_OI = weight_OI.contiguous()
        self._bias_O = None if bias_O is None else bias_O.float()
        self._tiles = TILES[weight_OI.dtype]
        num_out, num_in = weight_OI.shape
        self._split_size = split_size(
            num_out, num_in, self._tiles.few, num_processors=num_processors(weight_OI.device)
        )

    def __call__(self, x_TI: Tensor) -> Partials:
        """Return the output in parts; `x_TI` is contiguous and in the weights' dtype."""
        num_rows = x_TI.shape[0]
        num_out, num_in = self.weight_OI.shape
        tile, num_splits = self._tiles.of(num_rows), -(-num_in // self._split_size)
        sums_STO = torch.empty((num_splits, num_rows, num_out), device=x_TI.device)
        grid = (-(-num_rows // tile.rows), -(-num_out // tile.outputs), num_splits)
        linear_partials[grid](
            x_TI,
            self.weight_OI,
            sums_STO,
            num_rows,
            num_out,
            num_in,
            self._split_size,
            BLOCK_M=tile.rows,
            BLOCK_N=tile.outputs,
            BLOCK_K=tile.inputs,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
        return Partials(sums_STO=sums_STO, bias_O=self._bias_O)


def split_size(num_out: int, num_in: int, tile: TileShape, *, num_processors: int) -> int:
    """Return how many inputs one split takes: a multiple of the tile's, by the shape alone.

    A layer is split until its tiles give every multiprocessor some to overlap.
    """
    num_tiles = -(-num_out // tile.outputs)
    num_chunks = -(-num_in // tile.inputs)
    num_splits = max(1, min(_WAVES * num_processors // num_tiles, num_chunks // 2))
    return -(-num_chunks // num_splits) * tile.inputs


def num_processors(device: torch.device) -> int:
    """Count the device's multiprocessors."""
    if device.type != "cuda":  # the kernels' interpreter
        return 4
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def block_over(size: int) -> int:
    """Return the power of two that covers `size`."""
    power: int = triton.next_power_of_2(size)
    return power
