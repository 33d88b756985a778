"""Initial values and learning rates that follow the width (muP; Yang et al. 2022).

Each weight is told by how many times as many outputs and inputs it has as in the base network; its
initial deviation and its rate follow from these two numbers alone (Yang et al. 2023), and at 1 and
1 nothing differs from the standard. The multiplier of the output that the paper's table 8 has is
not computed anywhere: a decoder's last gain begins at its value and is learned at a rate for what
it is, which is the same descent (ibid., lemma J.1), so that what is saved needs no folding. Heads
keep their size, so attention's scale is the same at every width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from types import MappingProxyType

import torch
from torch import Tensor, nn

from purvey.models.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How many times as many outputs and inputs as in the base network one weight has.

    Args:
        outputs: Of a vector that is added or multiplied: its elements.
        inputs: 1 where the inputs are tokens, colours or nothing.
    """

    outputs: float = 1.0
    inputs: float = 1.0

    @property
    def deviation(self) -> float:
        """Factor on an initial deviation that does not follow the width."""
        return self.deviation_by_inputs / sqrt(self.inputs)

    @property
    def deviation_by_inputs(self) -> float:
        """Factor on an initial deviation that already falls with the root of the inputs."""
        return sqrt(min(1.0, self.outputs / self.inputs))

    @property
    def adam_rate(self) -> float:
        """Factor on the learning rate of Adam, whose steps do not know the gradient's size."""
        return 1.0 / self.inputs

    @property
    def sgd_rate(self) -> float:
        """Factor on the learning rate of SGD."""
        return self.outputs / self.inputs

    @property
    def muon_rate(self) -> float:
        """Factor on the rate of Muon, whose steps grow with the root of the longer side."""
        return sqrt(self.outputs / self.inputs) / sqrt(max(self.outputs, self.inputs))


Reaches = Mapping[str, Reach]
"""By the name of the parameter; one that is not named is as in the base."""
AS_IN_BASE: Reaches = MappingProxyType({})


def decoder_reaches(decoder: Decoder, factor: float) -> Reaches:
    """Tell the reach of a decoder's weights, `factor` times as wide as those of its base."""
    return {name: _in_decoder(name, factor) for name, _ in decoder.named_parameters()}


def network_reaches(network: nn.Module, base: nn.Module) -> Reaches:
    """Tell the reach of a network's weights by their shapes.

    Args:
        network: Linear layers, convolutions and vectors.
        base: The same at width factor 1; its numbers are not read.
    """
    small = {name: p.shape for name, p in base.named_parameters()}
    return {name: _by_shape(p, small[name]) for name, p in network.named_parameters()}


@torch.no_grad()
def rescale(module: nn.Module, reaches: Reaches, *, falls_with_inputs: bool) -> None:
    """Bring fresh weights to the deviation of their reach, in place.

    Args:
        module: Its weights were drawn as if it were its own base.
        reaches: Of its weights.
        falls_with_inputs: Whether a matrix was drawn with a deviation that falls with the root of
            its inputs.
    """
    for name, parameter in module.named_parameters():
        reach = reaches.get(name, Reach())
        factor = reach.deviation_by_inputs if falls_with_inputs else reach.deviation
        if factor != 1.0:
            parameter.mul_(factor)


def _in_decoder(name: str, factor: float) -> Reach:
    if name == "norm.weight":  # holds the multiplier of the output
        return Reach(inputs=factor)
    if name.endswith(("q_norm.weight", "k_norm.weight")):  # as wide as a head
        return Reach()
    if name.endswith("_proj.weight"):
        return Reach(outputs=factor, inputs=factor)
    return Reach(outputs=factor)  # tables, whose rows are tokens, gains and biases


def _by_shape(weight: Tensor, base: torch.Size) -> Reach:
    outputs = weight.shape[0] / base[0]
    return Reach(outputs=outputs, inputs=weight.shape[1] / base[1] if weight.dim() > 1 else 1.0)
