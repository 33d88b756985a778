"""Which part of every weight a rank holds, and how whole tensors come apart and together.

A divided weight is a `DTensor`. What moves weights (optimizers, running means, checkpoints of the
best) works on plain tensors that share its memory: the same code, and none of `DTensor`'s cost
for each of many small operations.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from purvey.train.checkpoint import Snapshot
from purvey.train.saving.regions import Region, chunk
from purvey.train.saving.shares import Held
from purvey.train.saving.stored import Stored


class Parts:
    """The divided weights of a module.

    Invariant: every parameter of `own` shares its memory with this rank's part of the weight of
    that name; a weight that is not divided is the same parameter.

    Args:
        weights: The module's parameters, divided or not, by name.
        structure: The module without its numbers, from before it was divided (`structure_of`).
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], structure: nn.Module) -> None:
        self._weights = dict(weights)
        self._held = {
            name: _held(weight, placement.dim)
            for name, weight in self._weights.items()
            if isinstance(weight, DTensor)
            for placement in weight.placements
            if isinstance(placement, Shard)
        }
        for name, weight in self._weights.items():
            local = weight
            if isinstance(weight, DTensor):
                local = nn.Parameter(_local(weight), requires_grad=weight.requires_grad)
            _register(structure, name, local)
        self.own = structure

    def is_divided(self, name: str) -> bool:
        """Tell whether ranks hold different parts of a weight."""
        return name in self._held

    def collect(self) -> None:
        """Move the gradients of divided weights to the parameters of `own`."""
        for name, parameter in self.own.named_parameters():
            weight = self._weights[name]
            if weight is parameter:
                continue
            assert isinstance(weight, DTensor), "another parameter stands for an undivided weight"
            gradient, weight.grad = weight.grad, None
            if gradient is not None:
                assert isinstance(gradient, DTensor), "a divided weight has a whole gradient"
                gradient = gradient.redistribute(placements=weight.placements).to_local()
            parameter.grad = gradient

    def place(self, key: str, tensor: Tensor) -> Held | None:
        """Return which block of a weight, or of its state, a tensor of that name is.

        Args:
            key: The weight's name, or `<weight>.<state>`.
            tensor: What this rank holds.

        Returns:
            None for what every rank holds all of, as a count of steps.
        """
        held = self._held_of(key)
        return held if held is not None and held.region.shape == tensor.shape else None

    def part(self, whole: Snapshot) -> Snapshot:
        """Return this rank's part of what `read_checkpoint` returns; no more of it is read."""
        return _mapped(whole, self._part)

    def restore_whole(self, *, is_kept: bool) -> nn.Module:
        """Put whole weights into `own` and return it; where they are not kept, only take part."""
        for name, weight in self._weights.items():
            if not isinstance(weight, DTensor):
                continue
            full = cast("DTensor", weight.detach()).full_tensor()
            if is_kept:
                kept = nn.Parameter(full, requires_grad=weight.requires_grad)
                _register(self.own, name, kept)
        return self.own

    def _part(self, key: str, stored: Stored) -> Tensor:
        held = self._held_of(key)
        if held is None or stored.shape(key) != held.shape:
            return stored[key]
        return stored.block(key, held.region)

    def _held_of(self, key: str) -> Held | None:
        """Find the divided weight of a tensor called like it, or `<weight>.<state>`."""
        return self._held.get(key) or self._held.get(key.rpartition(".")[0])


def structure_of(module: nn.Module) -> nn.Module:
    """Copy a module with parameters on the meta device; buffers are shared."""
    known: dict[int, Tensor] = {id(buffer): buffer for buffer in module.buffers()}
    for p in module.parameters():
        empty = torch.empty_like(p, device="meta")
        known[id(p)] = nn.Parameter(empty, requires_grad=p.requires_grad)
    return copy.deepcopy(module, known)


def transplant(source: nn.Module, target: nn.Module) -> None:
    """Put a module's children and own parameters into another of its kind, which stays itself."""
    for name, child in source.named_children():
        setattr(target, name, child)
    for name, parameter in source.named_parameters(recurse=False):
        target.register_parameter(name, parameter)


def _mapped(snapshot: Snapshot, read: Callable[[str, Stored], Tensor]) -> Snapshot:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, stored in snapshot.parts.items():
        assert isinstance(stored, Stored), "a checkpoint is taken apart as it is read"
        parts[name] = {key: read(key, stored) for key in stored}
    return replace(
        snapshot,
        model=parts["model"],
        optimizer=parts["optimizer"],
        best=parts.get("best"),
        average=parts.get("average"),
    )


def _held(weight: DTensor, dim: int) -> Held:
    """Return what this rank holds of a weight that is divided along a dimension."""
    mesh, start, shape = weight.device_mesh, [0] * weight.ndim, list(weight.shape)
    start[dim], shape[dim] = chunk(shape[dim], rank=mesh.get_local_rank(), size=mesh.size())
    assert tuple(shape) == _local(weight).shape, "a weight is not divided as torch.chunk does"
    return Held(shape=tuple(weight.shape), region=Region(start=tuple(start), shape=tuple(shape)))


def _local(weight: DTensor) -> Tensor:
    return cast("DTensor", weight.detach()).to_local()


def _register(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    parent, _, leaf = name.rpartition(".")
    module.get_submodule(parent).register_parameter(leaf, parameter)
