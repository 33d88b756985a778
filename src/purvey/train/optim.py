"""Optimizers by recipe, and their state as plain tensors under the names of the parameters."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from purvey.contracts.recipe_parts.descent import OptimizerConfig
from purvey.errors import InvalidValueError
from purvey.train.muon import Muon

_HEADS = frozenset({"classifier", "head", "lm_head"})
"""Names of output layers, which Muon leaves to AdamW as it does embeddings."""


class Descent:
    """One optimizer of torch, or two that divide a module's trained parameters.

    Args:
        parts: Each holds its own share of the parameters.
        names: Name of every parameter they hold.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer], names: Mapping[Tensor, str]) -> None:
        self._parts, self._names = tuple(parts), dict(names)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # torch's own shape
        """The groups of all parts."""
        return [group for part in self._parts for group in part.param_groups]

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of every group."""
        for group in self.param_groups:
            group["lr"] = rate

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move the parameters by their gradients."""
        for part in self._parts:
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """Return the state itself, no copies, by `<parameter name>.<state name>`."""
        return {
            f"{self._names[parameter]}.{key}": value
            for part in self._parts
            for parameter, state in part.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` returned, into an optimizer of the same recipe."""
        states: dict[str, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            name, _, key = path.rpartition(".")
            states.setdefault(name, {})[key] = value
        for part in self._parts:
            held = [self._names[p] for group in part.param_groups for p in group["params"]]
            numbered = {n: states[name] for n, name in enumerate(held) if name in states}
            groups = part.state_dict()["param_groups"]
            part.load_state_dict({"state": numbered, "param_groups": groups})


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> Descent:
    """Build the optimizer over the parameters that require a gradient.

    Weight decay falls on matrices only; biases, gains and other vectors are left alone.

    Raises:
        InvalidValueError: Muon was asked for, and the module has no hidden linear layer.
    """
    names: dict[Tensor, str] = {p: name for name, p in module.named_parameters() if p.requires_grad}
    match config.name:
        case "sgd":
            groups = _groups(names, config.weight_decay)
            sgd = torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
            return Descent([sgd], names)
        case "adamw":
            return Descent([_adamw(names, config)], names)
        case "muon":
            hidden = _hidden_matrices(module)
            rest = [p for p in names if p not in hidden]
            parts = [_muon([p for p in names if p in hidden], config)]
            return Descent([*parts, _adamw(rest, config)] if rest else parts, names)
        case _:
            assert_never(config.name)


def _muon(matrices: list[Tensor], config: OptimizerConfig) -> torch.optim.Optimizer:
    if not matrices:
        raise InvalidValueError(
            "optimizer.name 'muon' moves the weights of hidden linear layers, and no trained "
            "parameter is one: use 'adamw'.",
            param="recipe.optimizer.name",
        )
    return Muon(
        matrices,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def _adamw(parameters: Iterable[Tensor], config: OptimizerConfig) -> torch.optim.Optimizer:
    held = list(parameters)
    groups = _groups(held, config.weight_decay)
    is_fused = all(p.is_floating_point() and p.layout == torch.strided for p in held)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=is_fused)


def _groups(parameters: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    held = list(parameters)
    groups = [
        {"params": [p for p in held if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in held if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _hidden_matrices(module: nn.Module) -> set[Tensor]:
    """Return the weights of linear layers that are neither heads nor tied to an embedding."""
    tables = {
        layer.weight
        for layer in module.modules()
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    }
    return {
        layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] not in _HEADS
    } - tables
