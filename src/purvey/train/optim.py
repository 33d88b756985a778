"""Optimizers by recipe, and their state as plain tensors under the names of the parameters."""

from collections.abc import Mapping, Sequence
from typing import assert_never

from torch import Tensor, nn

from purvey.contracts.recipe_parts.descent import OptimizerConfig
from purvey.errors import InvalidValueError
from purvey.models.scaling.mup import AS_IN_BASE, Reach, Reaches
from purvey.train.descent.muon import Muon
from purvey.train.descent.rules import AdamW, ParameterGroup, Rule, Sgd

_HEADS = frozenset({"classifier", "head", "lm_head"})
"""Names of output layers, which Muon leaves to AdamW as it does embeddings."""


class Descent:
    """One rule, or two that divide a module's trained parameters.

    Args:
        parts: Each holds its own share of the parameters.
        names: Name of every parameter they hold.
    """

    def __init__(self, parts: Sequence[Rule], names: Mapping[Tensor, str]) -> None:
        self._parts, self._names = tuple(parts), dict(names)

    @property
    def groups(self) -> list[ParameterGroup]:
        """The groups of all parts."""
        return [group for part in self._parts for group in part.groups]

    def set_rate(self, rate: float) -> None:
        """Set the learning rate: that of every group, times the factor of its own."""
        for group in self.groups:
            group.rate = rate * group.rate_factor

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self._names:
            parameter.grad = None

    def step(self) -> None:
        """Move the parameters by their gradients."""
        for part in self._parts:
            part.step()

    def forget(self) -> None:
        """Drop the gradients and what is remembered: no step follows."""
        self.zero_grad()
        for part in self._parts:
            part.state.clear()

    def tensors(self) -> dict[str, Tensor]:
        """Return the state itself, no copies, by `<parameter name>.<state name>`."""
        return {
            f"{self._names[parameter]}.{key}": value
            for part in self._parts
            for parameter, state in part.state.items()
            for key, value in state.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` returned, into an optimizer of the same recipe."""
        states: dict[str, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            name, _, key = path.rpartition(".")
            states.setdefault(name, {})[key] = value
        for part in self._parts:
            held = [parameter for group in part.groups for parameter in group.parameters]
            part.state = {
                p: {key: value.to(p.device) for key, value in states[self._names[p]].items()}
                for p in held
                if self._names[p] in states
            }


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
        InvalidValueError: Nothing requires a gradient, or Muon was asked for and the module has
            no hidden linear layer.
    """
    names: dict[Tensor, str] = {p: name for name, p in module.named_parameters() if p.requires_grad}
    if not names:
        raise InvalidValueError(
            "no parameter of the network requires a gradient: there is nothing to train.",
            param="recipe.model",
        )
    held = {p: reaches.get(name, Reach()) for p, name in names.items()}
    match config.name:
        case "sgd":
            groups = _groups({p: reach.sgd_rate for p, reach in held.items()}, config)
            return Descent([Sgd(groups, momentum=config.momentum)], names)
        case "adamw":
            return Descent([_adamw(held, config)], names)
        case "muon":
            hidden = _hidden_matrices(module)
            rest = {p: reach for p, reach in held.items() if p not in hidden}
            parts = [_muon({p: reach for p, reach in held.items() if p in hidden}, config)]
            return Descent([*parts, _adamw(rest, config)] if rest else parts, names)
        case _:
            assert_never(config.name)


def _muon(matrices: Mapping[Tensor, Reach], config: OptimizerConfig) -> Rule:
    if not matrices:
        raise InvalidValueError(
            "optimizer.name 'muon' moves the weights of hidden linear layers, and no trained "
            "parameter is one: use 'adamw'.",
            param="recipe.optimizer.name",
        )
    groups = _groups({p: reach.muon_rate for p, reach in matrices.items()}, config)
    return Muon(groups, momentum=config.momentum)


def _adamw(held: Mapping[Tensor, Reach], config: OptimizerConfig) -> Rule:
    groups = _groups({p: reach.adam_rate for p, reach in held.items()}, config)
    return AdamW(groups, betas=config.betas)


def _groups(rates: Mapping[Tensor, float], config: OptimizerConfig) -> list[ParameterGroup]:
    """Divide parameters by what they need: matrices first, each by the factor on its rate.

    The product of rate and decay, by which a step shrinks a weight, is the same for all.
    """
    divided: dict[tuple[bool, float], list[Tensor]] = {}
    for p, rate in sorted(rates.items(), key=lambda item: item[0].dim() < 2):
        divided.setdefault((p.dim() >= 2, rate), []).append(p)
    return [
        ParameterGroup(
            parameters=parameters,
            rate=config.learning_rate * factor,
            rate_factor=factor,
            weight_decay=config.weight_decay / factor if is_matrix else 0.0,
        )
        for (is_matrix, factor), parameters in divided.items()
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
