"""One optimizer step: gradient, checks, clipping, update."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from purvey.errors import DivergedError


@dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """A batch's mean loss with its graph, and what it was taken over."""

    loss: Tensor
    num_rows: int
    num_tokens: int = 0


def update(
    batch: BatchLoss,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    *,
    clip_norm: float | None,
    step: int,
) -> float:
    """Apply one batch's gradient.

    Args:
        batch: The loss; its graph is freed.
        parameters: Those the optimizer holds.
        optimizer: Updated last, and only if everything is finite.
        clip_norm: Largest global L2 norm of the gradient, or None.
        step: Number of the step, for messages.

    Returns:
        The loss as a number.

    Raises:
        DivergedError: The loss or the gradient is not finite; the weights are unchanged.
    """
    loss = float(batch.loss.detach())
    if not math.isfinite(loss):
        raise DivergedError(f"the loss is {loss} at step {step}.", param="optimizer.learning_rate")
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(batch.loss)
    largest = math.inf if clip_norm is None else clip_norm
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not math.isfinite(float(norm)):
        raise DivergedError(
            f"the gradient is not finite at step {step}.", param="optimizer.learning_rate"
        )
    if norm > largest:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    optimizer.step()
    return loss
