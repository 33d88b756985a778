"""Optimizers by recipe, and their state as plain tensors."""

from collections.abc import Mapping
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from purvey.contracts.recipe_parts.descent import OptimizerConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimizer over the parameters that require a gradient.

    Weight decay falls on matrices only; biases, gains and other vectors are left alone.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [  # torch's own shape
        {
            "params": [p for p in trained if p.dim() >= 2],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    match config.name:
        case "sgd":
            return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
        case "adamw":
            return torch.optim.AdamW(
                groups, lr=config.learning_rate, betas=config.betas, fused=_can_fuse(trained)
            )
        case _:
            assert_never(config.name)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state by `<parameter number>.<name>`."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned, into an optimizer built the same way."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _can_fuse(parameters: list[nn.Parameter]) -> bool:
    """Tell whether torch's one-pass AdamW applies; it is several times faster on a CPU."""
    return all(p.is_floating_point() and p.layout == torch.strided for p in parameters)
