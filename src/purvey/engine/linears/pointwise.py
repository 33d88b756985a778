"""Norms and rotations of a served decoder, in few operations: at one row, each costs its call.

Only sums over a row, and operations whose results IEEE 754 rounds exactly: a row's bits do not
depend on where in a tensor it stands.

Shape letters, this file only:
    T = rows   D = width   Y = heads   H = head width
"""

import math

import torch
from torch import Tensor


class RowNorm:
    """Division by the root mean square of a row, then a gain.

        x / sqrt(sum x^2 / D + epsilon) * gain  =  x / sqrt(sum x^2 + D epsilon) * (sqrt(D) gain)

    Args:
        gain_D: Float32.
        epsilon: Added to the mean square.
    """

    def __init__(self, gain_D: Tensor, epsilon: float) -> None:
        width = len(gain_D)
        self._gain_D, self._added = gain_D * math.sqrt(width), epsilon * width

    @property
    def num_bytes(self) -> int:
        """Memory of the gain."""
        num_bytes: int = self._gain_D.nbytes
        return num_bytes

    def __call__(self, x_TD: Tensor) -> Tensor:
        """Return the normalised rows; more dimensions than two are rows too."""
        length_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True)
        factor_T1 = length_T1.square_().add_(self._added).rsqrt_()
        normed_TD: Tensor = (x_TD * factor_T1).mul_(self._gain_D)
        return normed_TD


def rotated(x_TYH: Tensor, cos_T1H: Tensor, turned_sin_T1H: Tensor) -> Tensor:
    """Rotate every pair (i, i + H/2) by its position's angle.

    Args:
        x_TYH: Float32.
        cos_T1H: Cosines, both halves equal.
        turned_sin_T1H: Sines of `turned_sines`.
    """
    turned_TYH = torch.roll(x_TYH, x_TYH.shape[2] // 2, 2)
    return (x_TYH * cos_T1H).add_(turned_TYH.mul_(turned_sin_T1H))


def turned_sines(sin_T1H: Tensor) -> Tensor:
    """Return sines with those of the first half negative: of what is taken from the second."""
    first_T1F, second_T1F = sin_T1H.chunk(2, dim=-1)
    return torch.cat((-first_T1F, second_T1F), dim=-1)
