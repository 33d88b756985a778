"""Optimizers by recipe, and their state as plain tensors under the names of the parameters."""

from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from purvey.contracts.recipe_parts.descent import OptimizerConfig
from purvey.errors import InvalidValueError
from purvey.models.scaling.mup import AS_IN_BASE, Reach, Reaches
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
        """Set the learning rate: that of every group, times the factor of its own."""
        for group in self.param_groups:
            group["lr"] = rate * group["rate_factor"]

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


def build_optimizer(
    module: nn.Module, config: OptimizerConfig, reaches: Reaches = AS_IN_BASE
) -> Descent:
    """Build the optimizer over the parameters that require a gradient.

    Weight decay falls on matrices only; biases, gains and other vectors are left alone. A weight
    that is wider than in its base has a rate of its own, and decays no faster or slower for it.

    Args:
        module: What is trained.
        config: The rule.
        reaches: Of the weights that are wider than in a base.

    Raises:
        InvalidValueError: Muon was asked for, and the module has no hidden linear layer.
    """
    names: dict[Tensor, str] = {p: name for name, p in module.named_parameters() if p.requires_grad}
    held = {p: reaches.get(name, Reach()) for p, name in names.items()}
    match config.name:
        case "sgd":
            rates = {p: reach.sgd_rate for p, reach in held.items()}
            groups = _groups(rates, config.weight_decay)
            sgd = torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
            return Descent([sgd], names)
        case "adamw":
            return Descent([_adamw(held, config)], names)
        case "muon":
            hidden = _hidden_matrices(module)
            rest = {p: reach for p, reach in held.items() if p not in hidden}
            parts = [_muon({p: reach for p, reach in held.items() if p in hidden}, config)]
            return Descent([*parts, _adamw(rest, config)] if rest else parts, names)
        case _:
            assert_never(config.name)


def _muon(matrices: Mapping[Tensor, Reach], config: OptimizerConfig) -> torch.optim.Optimizer:
    if not matrices:
        raise InvalidValueError(
            "optimizer.name 'muon' moves the weights of hidden linear layers, and no trained "
            "parameter is one: use 'adamw'.",
            param="recipe.optimizer.name",
        )
    rates = {p: reach.muon_rate for p, reach in matrices.items()}
    groups = _groups(rates, config.weight_decay)
    rate, momentum = config.learning_rate, config.momentum
    return Muon(groups, lr=rate, momentum=momentum, weight_decay=config.weight_decay)


def _adamw(held: Mapping[Tensor, Reach], config: OptimizerConfig) -> torch.optim.Optimizer:
    groups = _groups({p: reach.adam_rate for p, reach in held.items()}, config.weight_decay)
    is_fused = all(p.is_floating_point() and p.layout == torch.strided for p in held)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=is_fused)


def _groups(rates: Mapping[Tensor, float], weight_decay: float) -> list[dict[str, Any]]:
    """Divide parameters by what they need: matrices first, each by the factor on its rate.

    The product of rate and decay, by which a step shrinks a weight, is the same for all.
    """
    divided: dict[tuple[bool, float], list[Tensor]] = {}
    for p, rate in sorted(rates.items(), key=lambda item: item[0].dim() < 2):
        divided.setdefault((p.dim() >= 2, rate), []).append(p)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay / rate if is_matrix else 0.0,
            "rate_factor": rate,
        }
        for (is_matrix, rate), parameters in divided.items()
    ]


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


def state_bytes(module: nn.Module, config: OptimizerConfig) -> int:
    """Return the bytes that the optimizer of `build_optimizer` remembers once it has stepped."""
    hidden = _hidden_matrices(module) if config.name == "muon" else set[Tensor]()
    rest = 2
    if config.name == "sgd":
        rest = 1 if config.momentum else 0
    held = [p for p in module.parameters() if p.requires_grad]
    return sum(p.nbytes * (1 if p in hidden else rest) for p in held)
