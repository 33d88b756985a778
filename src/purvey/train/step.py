"""One optimizer step: gradients of one batch or several, checks, clipping, update."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from purvey.errors import DivergedError
from purvey.train.optim import Descent


@dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """A batch's mean loss with its graph, and what it was taken over.

    Args:
        loss: The mean.
        num_rows: Rows of the batch.
        num_tokens: Tokens that contributed.
        weight: What the mean divides by, where that is neither the tokens nor, without any,
            the rows.
    """

    loss: Tensor
    num_rows: int
    num_tokens: int = 0
    weight: float | None = None

    @property
    def total_weight(self) -> float:
        """What the mean was taken over; batches are put together in proportion to it."""
        return float(self.num_tokens or self.num_rows) if self.weight is None else self.weight


@dataclass(frozen=True, kw_only=True)
class StepTaken:
    """What a step was computed from: its mean loss over all batches, their weight, rows, tokens."""

    loss: float
    weight: float
    num_rows: int
    num_tokens: int = 0


class Joining(Protocol):
    """How what several processes compute of one step becomes one gradient."""

    def unit(self, first: float) -> float:
        """Return the weight that a loss is multiplied by 1 for, the same in every process.

        Args:
            first: Weight of this process's first batch.
        """
        ...

    def joined(self, taken: StepTaken) -> StepTaken:
        """Return what all have computed from what this one has."""
        ...

    def settle(self) -> None:
        """Leave the gradient of all in the parameters, after the last backward."""
        ...

    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Return the L2 norm of the whole gradient."""
        ...


class Single:
    """Nothing to join: one process computes the whole step."""

    def unit(self, first: float) -> float:
        """Return the first weight: a batch that is not divided then costs no multiplication."""
        return first

    def joined(self, taken: StepTaken) -> StepTaken:
        """Return it."""
        return taken

    def settle(self) -> None:
        """Do nothing: the gradient is there."""

    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Return the norm of the gradients that there are; 0 without any."""
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


SINGLE = Single()


def update(
    batches: Iterable[BatchLoss],
    parameters: list[nn.Parameter],
    optimizer: Descent,
    *,
    clip_norm: float | None,
    step: int,
    joining: Joining = SINGLE,
) -> StepTaken:
    """Apply the gradient of the mean loss over one batch or several.

    Args:
        batches: At least one; each graph is freed before the next batch is asked for.
        parameters: Those the optimizer holds.
        optimizer: Updated last, and only if everything is finite.
        clip_norm: Largest global L2 norm of the gradient, or None.
        step: Number of the step, for messages.
        joining: What joins this process to others; the step ends alike in all of them.

    Raises:
        DivergedError: A loss or the gradient is not finite; the weights are unchanged.
    """
    optimizer.zero_grad()
    taken = _accumulate(batches, parameters, joining)
    if not math.isfinite(taken.loss):
        raise DivergedError(
            f"the loss is {taken.loss} at step {step}.", param="optimizer.learning_rate"
        )
    largest = math.inf if clip_norm is None else clip_norm
    norm = joining.norm(parameters)
    if not math.isfinite(float(norm)):
        raise DivergedError(
            f"the gradient is not finite at step {step}.", param="optimizer.learning_rate"
        )
    if norm > largest:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    optimizer.step()
    return taken


def _accumulate(
    batches: Iterable[BatchLoss], parameters: list[nn.Parameter], joining: Joining
) -> StepTaken:
    """Leave the gradient of the mean over all batches of all processes in the parameters.

    Weights are taken relative to a unit. Where that is the first batch's weight, a single one has
    the bits, and the cost, of a batch that was never divided.
    """
    loss, weight, unit, num_rows, num_tokens = 0.0, 0.0, 0.0, 0, 0
    for batch in batches:
        found, its_weight = float(batch.loss.detach()), batch.total_weight
        unit = unit or joining.unit(its_weight)
        scale = its_weight / unit
        torch.autograd.backward(batch.loss if scale == 1 else batch.loss * scale)
        weight += its_weight
        loss += (found - loss) * (its_weight / weight if weight else 0.0)
        num_rows, num_tokens = num_rows + batch.num_rows, num_tokens + batch.num_tokens
    taken = joining.joined(
        StepTaken(loss=loss, weight=weight, num_rows=num_rows, num_tokens=num_tokens)
    )
    joining.settle()
    gradients = [p.grad for p in parameters if p.grad is not None]
    if taken.weight != unit and gradients:
        torch._foreach_mul_(gradients, unit / taken.weight)
    return taken
