"""Muon (Jordan et al. 2024): momentum, made nearly orthogonal, for matrices.

torch has the same rule with its iteration in bfloat16, whose products of a matrix and its own
transpose run at a tenth of float32's speed on a CPU.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Of the iteration's polynomial: steep at zero, so that five steps are enough."""
_STEPS = 5
_TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose singular values are all brought near 1.

    With a gradient `G`: `M = mu M + (1 - mu) G`, and the weight moves against
    `orthogonal((1 - mu) G + mu M)`, times the rate and `0.2 sqrt(max(rows, columns))`: then a step
    is about as long as AdamW's, and one rate serves both (Liu et al. 2025, eq. 4). Decay is
    decoupled.

    Args:
        matrices: What is moved, each of two dimensions; or groups of them, in torch's shape.
        lr: Learning rate.
        momentum: `mu`, in [0, 1).
        weight_decay: Share of the rate by which weights shrink.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure
        """Move every matrix that has a gradient."""
        assert closure is None, "a closure is not called"
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for matrix_OI in group["params"]:
                if matrix_OI.grad is None:
                    continue
                state = self.state[matrix_OI]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix_OI)
                mean_OI = state["momentum_buffer"].lerp_(matrix_OI.grad, 1 - momentum)
                direction_OI = orthogonal(matrix_OI.grad.lerp(mean_OI, momentum))
                length = rate * 0.2 * math.sqrt(max(matrix_OI.shape))
                matrix_OI.mul_(1 - rate * group["weight_decay"])
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
