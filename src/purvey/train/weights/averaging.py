"""A running mean of the weights (Polyak and Juditsky 1992), which is what a run keeps."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MeanWeights:
    """Exponential moving average of a module's trained parameters.

    After step `t` (from 0) each mean `m` becomes `d m + (1 - d) w`, where `d` is the smaller of
    the decay and `(1 + t) / (10 + t)`, so that early means forget the initial weights. Buffers
    are not averaged.

    Args:
        module: Its parameters that require a gradient.
        decay: In [0, 1).
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self._weights = {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}
        self._means = {name: weight.clone() for name, weight in self._weights.items()}

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The means themselves, by the name of the parameter."""
        return self._means

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        assert tensors.keys() == self._means.keys(), "the means are of another module"
        _copy(tensors, self._means)

    def advance(self, step: int) -> None:
        """Take in the weights after a step."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([*self._means.values()], [*self._weights.values()], 1 - decay)

    def keep(self) -> None:
        """Put the means into the module for good."""
        _copy(self._means, self._weights)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the module hold the means; afterwards it has its own weights again, bit for bit."""
        own = {name: weight.clone() for name, weight in self._weights.items()}
        self.keep()
        try:
            yield
        finally:
            _copy(own, self._weights)


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    torch._foreach_copy_([*target.values()], [source[name] for name in target])
