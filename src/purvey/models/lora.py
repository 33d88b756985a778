"""Low-rank adapters (Hu et al. 2021) on a decoder, saved and loaded in PEFT's format.

An adapted layer computes `W x + (alpha / r) B A x` (their equation 3); A starts random, B at zero,
so a fresh adapter changes nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidCheckpointError
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.json_file import read_object, write_object
from purvey.models.folder.safetensors_file import read_tensors, write_tensors
from purvey.models.linears.int4 import Int4Linear
from purvey.models.skeleton import skeleton

if TYPE_CHECKING:
    from purvey.contracts.recipe_parts.adapting import LoraConfig  # engines load without recipes

ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors"
TARGETS: dict[Literal["attention", "all-linear"], tuple[str, ...]] = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "all-linear": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
_ALL = TARGETS["all-linear"]
_PREFIX = "base_model.model.model."
_ABSENT = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias")


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank addition.

    Args:
        base: The layer; its parameters are frozen.
        rank: Width of the addition.
        scale: `alpha / rank`.
        dropout: Share of the input dropped on the way into A while training.
    """

    def __init__(
        self, base: nn.Linear | Int4Linear, *, rank: int, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output with the addition."""
        added: Tensor = self.lora_B(self.lora_A(self.dropout(x)))
        output: Tensor = self.base(x)
        return output + self.scale * added

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return the base layer with the addition folded into its weight."""
        assert isinstance(self.base, nn.Linear), "a base in 4 bits is not merged into"
        self.base.weight += self.scale * (self.lora_B.weight @ self.lora_A.weight)
        return self.base.requires_grad_(requires_grad=True)


def inject(decoder: Decoder, config: "LoraConfig", *, generator: torch.Generator) -> None:
    """Freeze a decoder and put fresh adapters on its layers, in place.

    With `base_precision` `int4` every linear layer of a block, adapted or not, is held in 4 bits.
    A is drawn as `nn.Linear` does (Kaiming uniform, a = sqrt 5), B is zero.

    Args:
        decoder: Not adapted yet.
        config: Rank, alpha, dropout, which layers, and how the base is held.
        generator: Source of chance.
    """
    decoder.requires_grad_(requires_grad=False)
    if config.base_precision == "int4":
        for name in _linear_names(decoder, _ALL):  # one by one: each leaves its memory at once
            decoder.set_submodule(name, Int4Linear(_plain(decoder, name)))
    for name in _linear_names(decoder, TARGETS[config.targets]):
        base = decoder.get_submodule(name)
        assert isinstance(base, nn.Linear | Int4Linear), "the decoder is adapted already"
        scale = config.alpha / config.rank
        layer = LoraLinear(base, rank=config.rank, scale=scale, dropout=config.dropout)
        nn.init.kaiming_uniform_(layer.lora_A.weight, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(layer.lora_B.weight)
        decoder.set_submodule(name, layer)


def merge(decoder: Decoder) -> None:
    """Fold every adapter into its layer, in place; all parameters become trainable again.

    Raises:
        InvalidCheckpointError: A weight is not finite any more; the decoder must not be used.
    """
    for name, layer in list(adapters(decoder)):
        merged = layer.merged()
        if not bool(torch.isfinite(merged.weight).all()):
            raise _refusal(f"makes the weights of {name!r} overflow")
        decoder.set_submodule(name, merged)
    decoder.requires_grad_(requires_grad=True)


def adapters(decoder: Decoder) -> Iterator[tuple[str, LoraLinear]]:
    """Yield name and layer of every adapter."""
    for name, module in decoder.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def save_adapter(decoder: Decoder, folder: Path, config: "LoraConfig", *, base_name: str) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, loadable by `peft`.

    Args:
        decoder: An adapted decoder; unchanged.
        folder: Made where missing.
        config: As given to `inject`.
        base_name: Written as the name of the base model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, layer in adapters(decoder):
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = layer.lora_A.weight
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = layer.lora_B.weight
    write_tensors(tensors, folder / ADAPTER_WEIGHTS_NAME)
    values: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(TARGETS[config.targets]),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_rslora": False,
    }
    write_object(folder / ADAPTER_CONFIG_NAME, values)


@dataclass(frozen=True, kw_only=True)
class AdapterWeights:
    """What an adapter's folder holds, in float32; every number is finite.

    Args:
        rank: Width of every layer's addition.
        scale: What `B A x` is multiplied by.
        pairs: A (rank x in) and B (out x rank), by the layer's name in the decoder
            (`layers.0.self_attn.q_proj`).
    """

    rank: int
    scale: float
    pairs: dict[str, tuple[Tensor, Tensor]]


def read_adapter(folder: Path, config: DecoderConfig) -> AdapterWeights:
    """Read a saved adapter of a base.

    Which layers it adapts is read from its tensors' names, so a `target_modules` that is a
    pattern is never run.

    Raises:
        InvalidCheckpointError: Not a plain LoRA, or a tensor does not fit the base.
    """
    rank, scale = _read_config(folder)
    if not (folder / ADAPTER_WEIGHTS_NAME).is_file():
        raise _refusal(f"has no {ADAPTER_WEIGHTS_NAME}")
    pairs = _pairs(read_tensors(folder / ADAPTER_WEIGHTS_NAME))
    base = skeleton(config)
    names = _linear_names(base, _ALL)
    shapes = {name: base.get_parameter(f"{name}.weight").shape for name in names}
    for name, (a, b) in pairs.items():
        if name not in shapes:
            raise _refusal(f"adapts {name!r}, which the base does not have")
        num_outputs, num_inputs = shapes[name]
        if a.shape != (rank, num_inputs) or b.shape != (num_outputs, rank):
            raise _refusal(f"does not fit the base at {name!r}")
    return AdapterWeights(rank=rank, scale=scale, pairs=pairs)


def load_adapter(decoder: Decoder, folder: Path) -> None:
    """Put a saved adapter on a decoder, in place; `merge` afterwards to serve it.

    Raises:
        InvalidCheckpointError: As `read_adapter`.
    """
    weights = read_adapter(folder, decoder.config)
    decoder.requires_grad_(requires_grad=False)
    for name, (a, b) in weights.pairs.items():
        layer = LoraLinear(_plain(decoder, name), rank=weights.rank, scale=weights.scale)
        layer.lora_A.weight = nn.Parameter(a)
        layer.lora_B.weight = nn.Parameter(b)
        decoder.set_submodule(name, layer.train(decoder.training))


def _linear_names(decoder: Decoder, targets: tuple[str, ...]) -> list[str]:
    return [
        name
        for name, _ in decoder.named_modules()
        if name.startswith("layers.") and name.rpartition(".")[2] in targets
    ]


def _plain(decoder: Decoder, name: str) -> nn.Linear:
    layer = decoder.get_submodule(name)
    assert isinstance(layer, nn.Linear), "the decoder is adapted already"
    return layer


def _read_config(folder: Path) -> tuple[int, float]:
    """Return rank and scale of an adapter."""
    fields = Fields(read_object(folder / ADAPTER_CONFIG_NAME), file=ADAPTER_CONFIG_NAME)
    fields.choice("peft_type", ("LORA",))
    fields.choice("bias", ("none",), default="none")
    for name in _ABSENT:
        if fields.values.get(name):
            raise fields.refusal(name, "is not implemented")
    if fields.flag("fan_in_fan_out", default=False):
        raise fields.refusal("fan_in_fan_out", "is not implemented")
    rank = fields.count("r")
    if rank > LIMITS.lora_rank:
        raise fields.refusal("r", f"must be at most {LIMITS.lora_rank}")
    is_rank_stabilised = fields.flag("use_rslora", default=False)
    divisor = math.sqrt(rank) if is_rank_stabilised else rank
    return rank, fields.number("lora_alpha") / divisor


def _pairs(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Group an adapter's tensors by the layer they adapt."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.removesuffix(".weight").rpartition(".")
        if not layer.startswith(_PREFIX) or kind not in {"lora_A", "lora_B"}:
            raise _refusal(f"holds the unexpected tensor {name!r}")
        layers.setdefault(layer.removeprefix(_PREFIX), {})[kind] = tensor
    for layer, kinds in layers.items():
        if len(kinds) != 2:
            raise _refusal(f"lacks one of the two tensors of {layer!r}")
    return {layer: (kinds["lora_A"], kinds["lora_B"]) for layer, kinds in layers.items()}


def _refusal(complaint: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(f"the adapter {complaint}.", param="model")
