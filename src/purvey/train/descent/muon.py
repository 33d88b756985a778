"""Muon (Jordan et al. 2024): momentum, made nearly orthogonal, for matrices.

torch has the same rule with its iteration in bfloat16, whose products of a matrix and its own
transpose run at a tenth of float32's speed on a CPU.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from purvey.train.descent.rules import ParameterGroup, Rule

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Of the iteration's polynomial: steep at zero, so that five steps are enough."""
_STEPS = 5
_TINY = 1e-7


class Muon(Rule):
    """Nesterov momentum whose singular values are all brought near 1.

    With a gradient `G`: `M = mu M + (1 - mu) G`, and the weight moves against
    `orthogonal((1 - mu) G + mu M)`, times the rate and `0.2 sqrt(max(rows, columns))`: then a step
    is about as long as AdamW's, and one rate serves both (Liu et al. 2025, eq. 4). Decay is
    decoupled.

    Args:
        groups: What is moved, each of two dimensions.
        momentum: `mu`, in [0, 1).
    """

    def __init__(self, groups: Sequence[ParameterGroup], *, momentum: float) -> None:
        super().__init__(groups)
        self._momentum = momentum

    def _move(self, group: ParameterGroup, moved: list[Tensor], gradients: list[Tensor]) -> None:
        for matrix_OI, gradient_OI in zip(moved, gradients, strict=True):
            if matrix_OI not in self.state:
                self.state[matrix_OI] = {"momentum_buffer": torch.zeros_like(matrix_OI)}
            mean_OI = self.state[matrix_OI]["momentum_buffer"]
            mean_OI.lerp_(gradient_OI, 1 - self._momentum)
            direction_OI = orthogonal(gradient_OI.lerp(mean_OI, self._momentum))
            length = group.rate * 0.2 * math.sqrt(max(matrix_OI.shape))
            matrix_OI.mul_(1 - group.rate * group.weight_decay)
            matrix_OI.add_(direction_OI, alpha=-length)


def orthogonal(matrix_OI: Tensor) -> Tensor:
    """Return nearly `U V^T` of `matrix_OI = U S V^T`, in its dtype, by five Newton-Schulz steps.

    Singular values that are not tiny beside the largest end between 0.7 and 1.2.
    """
    if matrix_OI.shape[0] > matrix_OI.shape[1]:
        return orthogonal(matrix_OI.T).T
    x_OI: Tensor = matrix_OI / matrix_OI.norm().clamp(min=_TINY)
    for _ in range(_STEPS):
        gram_OO = x_OI @ x_OI.T
        polynomial_OO = torch.addmm(gram_OO, gram_OO, gram_OO, beta=_B, alpha=_C)
        x_OI = torch.addmm(x_OI, polynomial_OO, x_OI, beta=_A)
    return x_OI
