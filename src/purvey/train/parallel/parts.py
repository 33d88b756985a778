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
from torch.distributed.tensor import DTensor, distribute_tensor

from purvey.train.checkpoint import Snapshot


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
        for name, weight in self._weights.items():
            local = weight
            if isinstance(weight, DTensor):
                local = nn.Parameter(_local(weight), requires_grad=weight.requires_grad)
            _register(structure, name, local)
        self.own = structure

    def is_divided(self, name: str) -> bool:
        """Tell whether ranks hold different parts of a weight."""
        weight = self._weights[name]
        return isinstance(weight, DTensor) and any(p.is_shard() for p in weight.placements)

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

    def whole(self, part: Snapshot) -> Snapshot:
        """Return a snapshot of `own` whose divided tensors know of their other parts."""
        return _mapped(part, self._whole)

    def part(self, whole: Snapshot) -> Snapshot:
        """Return this rank's part of a snapshot, holding one whole tensor at a time."""
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

    def _whole(self, key: str, tensor: Tensor) -> Tensor:
        weight = self._weight_of(key)
        if weight is None or tensor.shape != _local(weight).shape:
            return tensor
        return DTensor.from_local(
            tensor.detach(),
            weight.device_mesh,
            weight.placements,
            run_check=False,
            shape=weight.shape,
            stride=weight.stride(),
        )

    def _part(self, key: str, tensor: Tensor) -> Tensor:
        weight = self._weight_of(key)
        if weight is None or tensor.shape != weight.shape:
            return tensor
        mesh, placements = weight.device_mesh, weight.placements
        local = distribute_tensor(tensor, mesh, placements, src_data_rank=None).to_local()
        return local.clone(memory_format=torch.contiguous_format)

    def _weight_of(self, key: str) -> DTensor | None:
        """Find the divided weight of a tensor called like it, or `<weight>.<state>`."""
        weight = self._weights.get(key)
        if weight is None:
            weight = self._weights.get(key.rpartition(".")[0])
        return weight if isinstance(weight, DTensor) else None


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


def _mapped(snapshot: Snapshot, change: Callable[[str, Tensor], Tensor]) -> Snapshot:
    parts = {
        name: {key: change(key, tensors[key]) for key in tensors}
        for name, tensors in snapshot.parts.items()
    }
    return replace(
        snapshot,
        model=parts["model"],
        optimizer=parts["optimizer"],
        best=parts.get("best"),
        average=parts.get("average"),
    )


def _local(weight: DTensor) -> Tensor:
    return cast("DTensor", weight.detach()).to_local()


def _register(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    parent, _, leaf = name.rpartition(".")
    module.get_submodule(parent).register_parameter(leaf, parameter)
