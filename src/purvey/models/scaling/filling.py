"""A large network filled from the weights of a small one, so that it computes the same."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from purvey.errors import InvalidValueError
from purvey.models.scaling.copies import divided, repeated
from purvey.models.scaling.rules import Rule
from purvey.models.scaling.width import Change


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What was done to the weights of the small network.

    Args:
        changes: How many were kept, repeated and divided.
        new_layers: Layers that add nothing yet.
    """

    changes: Counter[Change]
    new_layers: tuple[int, ...]


@torch.no_grad()
def fill(
    large: nn.Module, small: nn.Module, rule: Rule, *, depth_factor: int, generator: torch.Generator
) -> Filled:
    """Give a network the weights of a smaller one of its kind.

    Args:
        large: Its numbers are replaced; those of new layers that are no copies stay.
        small: Stays as it is, and shares no memory with the large one.
        rule: How the kind grows.
        depth_factor: Times as many layers.
        generator: Of the shares by which weights are divided.

    Raises:
        InvalidValueError: A part would not be a whole number of times as wide.
    """
    weights, state = small.state_dict(), dict[str, Tensor]()
    changes, new_layers = Counter[Change](), set[int]()
    for name, there in large.state_dict().items():
        origin, is_new = rule.origin(name, depth_factor)
        layer = rule.layer_of(name)
        if is_new and layer is not None:
            new_layers.add(layer)
        if origin is None:
            state[name] = there
            continue
        state[name], change = _widened(origin, weights[origin], there.shape, rule, generator)
        if is_new and name.endswith(rule.closed):
            state[name] = torch.zeros_like(state[name])
        if not is_new:
            changes[change] += 1
    large.load_state_dict(state, assign=True)
    large.requires_grad_(requires_grad=True)
    return Filled(changes=changes, new_layers=tuple(sorted(new_layers)))


def _widened(
    name: str, weight: Tensor, shape: torch.Size, rule: Rule, generator: torch.Generator
) -> tuple[Tensor, Change]:
    if name in rule.tables:
        times = _times(name, weight, shape, dim=1)
        return repeated(weight, times, dim=1), "repeated" if times > 1 else "kept"
    outputs = _times(name, weight, shape, dim=0)
    inputs = _times(name, weight, shape, dim=1) if weight.dim() > 1 else 1
    if inputs == 1:
        return repeated(weight, outputs), "repeated" if outputs > 1 else "kept"
    wide = divided(
        weight,
        outputs=outputs,
        inputs=inputs,
        generator=generator,
        vectors=rule.vectors.get(name, 1),
    )
    return wide, "divided"


def _times(name: str, weight: Tensor, shape: torch.Size, *, dim: int) -> int:
    times, left = divmod(shape[dim], weight.shape[dim])
    if left:
        raise InvalidValueError(
            f"{name} would be {shape[dim]} wide and not {weight.shape[dim]}, which is no whole "
            "number of times.",
            param="recipe.model.width_factor",
            hint="Take another factor.",
        )
    return times
