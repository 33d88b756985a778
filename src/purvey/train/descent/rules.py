"""What moves parameters by their gradients: SGD and AdamW, as torch computes them.

`torch.optim.Optimizer` is not used: whatever it does, it first imports torch's compiler, which
takes seconds and a hundred megabytes in every process that trains, and is of no use there.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

_EPSILON = 1e-8


@dataclass(kw_only=True)
class ParameterGroup:
    """Parameters that are moved alike.

    Args:
        parameters: Some or all of a module's.
        rate: Learning rate of the coming step.
        rate_factor: What its rate is of the rate of the run.
        weight_decay: Share of the rate by which weights shrink.
    """

    parameters: list[Tensor]
    rate: float
    rate_factor: float
    weight_decay: float

    @property
    def moved(self) -> list[Tensor]:
        """Those that have a gradient."""
        return [parameter for parameter in self.parameters if parameter.grad is not None]


class Rule(ABC):
    """Groups of parameters, and what is remembered of each parameter between steps.

    Args:
        groups: At least one.
    """

    def __init__(self, groups: Sequence[ParameterGroup]) -> None:
        self.groups = tuple(groups)
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for group in self.groups:
            if moved := group.moved:
                self._move(group, moved, [p.grad for p in moved if p.grad is not None])

    @abstractmethod
    def _move(self, group: ParameterGroup, moved: list[Tensor], gradients: list[Tensor]) -> None:
        """Move some of a group's parameters by their gradients."""


class Sgd(Rule):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013, as torch has it).

    Args:
        groups: What is moved.
        momentum: In [0, 1).
    """

    def __init__(self, groups: Sequence[ParameterGroup], *, momentum: float) -> None:
        super().__init__(groups)
        self._momentum = momentum

    def _move(self, group: ParameterGroup, moved: list[Tensor], gradients: list[Tensor]) -> None:
        buffers = [self.state.get(p, {}).get("momentum_buffer") for p in moved]
        sgd(
            moved,
            gradients,
            buffers if self._momentum else [],
            weight_decay=group.weight_decay,
            momentum=self._momentum,
            lr=group.rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for p, buffer in zip(moved, buffers, strict=True):
            if buffer is not None:  # the first step has made it
                self.state[p] = {"momentum_buffer": buffer}


class AdamW(Rule):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), fused where that is possible.

    Args:
        groups: What is moved.
        betas: Of the means of gradients and of their squares, each in [0, 1).
    """

    def __init__(self, groups: Sequence[ParameterGroup], *, betas: tuple[float, float]) -> None:
        super().__init__(groups)
        self._betas = betas
        held = [p for group in groups for p in group.parameters]
        self._is_fused = all(p.is_floating_point() and p.layout == torch.strided for p in held)

    def _move(self, group: ParameterGroup, moved: list[Tensor], gradients: list[Tensor]) -> None:
        states = [self.state.get(p) or self._begun(p) for p in moved]
        adamw(
            moved,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=self._is_fused,
            has_complex=any(p.is_complex() for p in moved),
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=group.rate,
            weight_decay=group.weight_decay,
            eps=_EPSILON,
            maximize=False,
        )

    def _begun(self, p: Tensor) -> dict[str, Tensor]:
        device = p.device if self._is_fused else torch.device("cpu")
        self.state[p] = {
            "step": torch.zeros((), dtype=torch.float32, device=device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
        return self.state[p]
