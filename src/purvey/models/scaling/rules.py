"""How each kind of network grows, by the names of its weights.

A norm over a repeated vector, or over whole groups of it, is the repeated norm; heads keep their
size. So every network here grows by width. A layer that adds what it computes to what it is given
adds nothing where its last weights are zero (Wu et al. 2024), so networks of such layers grow by
depth; the others say why they do not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import nn

from purvey.models.networks.audio_convnet import AudioConvNet
from purvey.models.networks.convnet import ConvNet
from purvey.models.networks.resnet import ResNet
from purvey.models.networks.vit import Layer, ViT
from purvey.models.speech.network import CtcEncoder
from purvey.models.text_ngrams import TextNgrams

_NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What becomes of the weights of one network.

    Args:
        tables: Those whose rows are looked up: they are repeated along the width.
        vectors: Of those whose inputs are several vectors end to end, how many.
        layers: How the names of its layers begin; empty where it does not grow by depth.
        closed: How the names of those weights of a layer end that are zero while it adds nothing.
        stage_layers: Layers of a stage, where a new one is no copy and begins as its shortcut.
        why_not_deeper: Why it does not grow by depth.
    """

    tables: frozenset[str] = frozenset()
    vectors: Mapping[str, int] = field(default_factory=dict)
    layers: str = ""
    closed: tuple[str, ...] = ()
    stage_layers: int | None = None
    why_not_deeper: str = ""

    def layer_of(self, name: str) -> int | None:
        """Return the number of the layer that a weight is of, if it is of one."""
        if not self.layers or not name.startswith(self.layers):
            return None
        return int(name.removeprefix(self.layers).partition(".")[0])

    def origin(self, name: str, factor: int) -> tuple[str | None, bool]:
        """Return what a weight of the large network is made from, and whether its layer is new.

        Args:
            name: The weight.
            factor: Times as many layers.

        Returns:
            The name of a weight of the small network, or None where there is no such one.
        """
        layer = self.layer_of(name)
        if layer is None:
            return name, False
        part = name.removeprefix(f"{self.layers}{layer}")
        if self.stage_layers is None:
            small, copy = divmod(layer, factor)
            return f"{self.layers}{small}{part}", copy > 0
        stage, place = divmod(layer, self.stage_layers * factor)
        if place >= self.stage_layers:
            return None, True
        return f"{self.layers}{stage * self.stage_layers + place}{part}", False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a built-in network grows.

    Args:
        rule: Of its weights.
        sizes: Its hyperparameters that say how large it is.
        wide: Those of them that a wider one has more of.
        deep: Those that a deeper one has more of.
    """

    rule: Rule
    sizes: Mapping[str, int]
    wide: tuple[str, ...] = ("width",)
    deep: tuple[str, ...] = ("depth",)

    def grown(
        self, hyperparameters: Mapping[str, Any], width_factor: int, depth_factor: int
    ) -> dict[str, Any]:
        """Return the hyperparameters of the large network; JSON values."""
        factors = dict.fromkeys(self.wide, width_factor) | dict.fromkeys(self.deep, depth_factor)
        larger = {name: size * factors.get(name, 1) for name, size in self.sizes.items()}
        return {**hyperparameters, **larger}


POST_NORM = (
    "its layers normalise the sum of what they are given and what they compute, so none can leave "
    "its input as it is"
)
_NO_SHORTCUT = "nothing leads around its layers, so none can leave its input as it is"


def plan_of(network: nn.Module, hyperparameters: Mapping[str, Any]) -> Plan | None:
    """Return how a built-in network grows; None of one that does not.

    Args:
        network: Read for what is not said.
        hyperparameters: What it was built by.
    """
    match network:
        case ViT():
            return _vit(network, hyperparameters)
        case ResNet():
            return _resnet(network)
        case ConvNet():
            return _without_shortcuts(network.features[0])
        case AudioConvNet():  # its head reads means, then maxima
            return _without_shortcuts(network.stages[0], vectors={"head.weight": 2})
        case TextNgrams():
            rule = Rule(tables=frozenset({"table"}), why_not_deeper="it has no layers")
            return Plan(rule=rule, sizes={"width": network.table.shape[1]})
        case CtcEncoder():
            sizes = {"width": network.norm.normalized_shape[0], "depth": len(network.blocks)}
            return Plan(rule=Rule(layers="blocks.", closed=_ends("narrow")), sizes=sizes)
        case _:
            return None


def _vit(vit: ViT, given: Mapping[str, Any]) -> Plan:
    layer, width = vit.layers[0], vit.norm.normalized_shape[0]
    assert isinstance(layer, Layer), "a layer is a layer"
    return Plan(
        rule=Rule(layers="layers.", closed=_ends("attention.output", "down")),
        sizes={
            "width": width,
            "heads": layer.attention.heads,
            "depth": len(vit.layers),
            "positions": given.get("positions") or width,
        },
        wide=("width", "heads"),
    )


def _resnet(resnet: ResNet) -> Plan:
    width = _first(resnet.stem).out_channels
    num_stages = (resnet.head.in_features // width).bit_length()
    depth = len(resnet.blocks) // num_stages
    rule = Rule(layers="blocks.", stage_layers=depth)
    return Plan(rule=rule, sizes={"width": width, "depth": depth})


def _without_shortcuts(stage: nn.Module, *, vectors: Mapping[str, int] = _NONE) -> Plan:
    rule = Rule(vectors=vectors, why_not_deeper=_NO_SHORTCUT)
    return Plan(rule=rule, sizes={"width": _first(stage).out_channels})


def _first(layers: nn.Module) -> nn.Conv2d:
    first = next(layers.children())
    assert isinstance(first, nn.Conv2d), "a network for pictures begins with a convolution"
    return first


def _ends(*parts: str) -> tuple[str, ...]:
    return tuple(f".{part}.{kind}" for part in parts for kind in ("weight", "bias"))
