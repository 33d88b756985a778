"""Mean cross-entropy over a vocabulary without keeping the logits.

The logits of some rows at a time are turned into their own gradient at once, so memory holds
one piece of them instead of three copies of all, and the piece stays in the processor's cache.
Nothing is computed twice (Liger Kernel, Hsu et al. 2024, section 3.2 works the same way).

Shape letters, this file only:
    M = positions with a target    C = those of one piece    D = residual width    V = vocabulary
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from purvey.train.placing import kind_of

_PIECE_BYTES = 2**24
_LEAST_ROWS = 32


def piece_rows(vocabulary_size: int) -> int:
    """Return the rows whose float32 logits are computed at once."""
    return max(_LEAST_ROWS, _PIECE_BYTES // (4 * vocabulary_size))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is done to the logits.

    Args:
        softcap: Their bound, as `attention.base.capped` has it.
        smoothing: Share of each target's weight that is spread evenly over the vocabulary.
    """

    softcap: float | None = None
    smoothing: float = 0.0


def mean_cross_entropy(x_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, shape: Shape) -> Tensor:
    """Return the mean loss in nats, float32, differentiable once in `x_MD` and `weight_VD`.

    Products have the dtype of `x_MD`, or autocast's; everything else is float32.

    Args:
        x_MD: Final states.
        weight_VD: The head.
        targets_M: Id to be predicted (int64); at least one.
        shape: What is done to the logits.
    """
    loss: Tensor = _MeanCrossEntropy.apply(x_MD, weight_VD, targets_M, shape)  # type: ignore[no-untyped-call]  # torch
    return loss


class _MeanCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's own)
        x_MD: Tensor,
        weight_VD: Tensor,
        targets_M: Tensor,
        shape: Shape,
    ) -> Tensor:
        kind = kind_of(x_MD)
        is_cast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if is_cast else x_MD.dtype
        with torch.autocast(kind, enabled=False):
            pieces = _Pieces(x_MD.to(dtype), weight_VD.to(dtype), targets_M, shape)
            losses, grad_x_MD, grad_weight_VD = pieces.run(ctx.needs_input_grad)
        ctx.gradients = (
            None if grad_x_MD is None else grad_x_MD.to(x_MD.dtype),
            None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype),
        )
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 (as above)
        """Scale what was computed on the way forward; it is used up by that."""
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "the graph was used before"
        scaled = [None if one is None else one.mul_(grad) for one in gradients]
        return (*scaled, None, None)


class _Pieces:
    """The loss of all rows, piece by piece, each with its gradient."""

    def __init__(self, x_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, shape: Shape) -> None:
        self._x_MD, self._weight_VD, self._targets_M = x_MD, weight_VD, targets_M
        self._shape = shape

    def run(self, needed: tuple[bool, ...]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the mean loss, and the gradients that are needed, in float32."""
        x_MD, weight_VD = self._x_MD, self._weight_VD
        loss = torch.zeros((), dtype=torch.float64, device=x_MD.device)
        grad_x_MD = torch.empty_like(x_MD) if needed[0] else None
        grad_weight_VD = torch.zeros(weight_VD.shape, device=x_MD.device) if needed[1] else None
        rows = piece_rows(len(weight_VD))
        for start in range(0, len(x_MD), rows):
            piece = slice(start, start + rows)
            losses_C, grad_CV = self._piece(x_MD[piece], self._targets_M[piece])
            loss += losses_C.sum(dtype=torch.float64)
            if grad_x_MD is not None:
                torch.mm(grad_CV, weight_VD, out=grad_x_MD[piece])
            if grad_weight_VD is not None:
                _add_product(grad_weight_VD, grad_CV, x_MD[piece])
        return (loss / len(x_MD)).float(), grad_x_MD, grad_weight_VD

    def _piece(self, x_CD: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of some rows, and the gradient of the mean in their logits."""
        softcap, smoothing = self._shape.softcap, self._shape.smoothing
        logits_CV = linear(x_CD, self._weight_VD).float()
        slope_CV = None
        if softcap is not None:
            bounded_CV = torch.tanh(logits_CV / softcap)
            logits_CV, slope_CV = bounded_CV * softcap, 1 - bounded_CV.square()
        log_CV = logits_CV.log_softmax(1)
        targets_C1 = targets_C[:, None]
        losses_C = -log_CV.gather(1, targets_C1).squeeze(1)
        if smoothing:
            losses_C = (1 - smoothing) * losses_C - smoothing * log_CV.mean(1)
        grad_CV = log_CV.exp_()  # the softmax, less what it is compared with
        if smoothing:
            grad_CV.sub_(smoothing / grad_CV.shape[1])
        wanted_C1 = torch.full(targets_C1.shape, smoothing - 1.0, device=x_CD.device)
        grad_CV.scatter_add_(1, targets_C1, wanted_C1)
        grad_CV.mul_(1 / len(self._x_MD))
        if slope_CV is not None:
            grad_CV.mul_(slope_CV)
        return losses_C, grad_CV.to(x_CD.dtype)


def _add_product(sum_VD: Tensor, grad_CV: Tensor, x_CD: Tensor) -> None:
    if grad_CV.dtype == sum_VD.dtype:
        sum_VD.addmm_(grad_CV.T, x_CD)
    else:
        sum_VD += grad_CV.T @ x_CD
