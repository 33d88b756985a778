"""LoRA adapters in PEFT's format (Hu et al. 2021), checked without a tensor library.

A folder holds `adapter_config.json` and `adapter_model.safetensors`: for each adapted layer of
`out` x `in` weights the matrices A, `r` x `in`, and B, `out` x `r`. Whether its numbers are
finite is for the engine that loads it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidCheckpointError
from purvey.registry.safetensors_header import TensorEntry, read_header
from purvey.registry.weight_headers import read_tensors

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
_BYTES_PER_FLOAT = 4
_HEAD, _BASE_HEAD, _TAIL = "base_model.model.model.", "model.", ".weight"
_PARTS = ("lora_A", "lora_B")
_FLOATS = frozenset({"F16", "BF16", "F32"})
_ADAPTED = frozenset({
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
})  # fmt: skip
_ABSENT = (
    "use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias", "fan_in_fan_out",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AdapterFolder:
    """What a folder of PEFT's holds.

    Args:
        base: What it calls its base: a name or a path on the machine that wrote it.
        rank: Width of its matrices.
        tensors: Shapes by name.
    """

    base: str
    rank: int
    tensors: Mapping[str, tuple[int, ...]]


def read_adapter(config: Mapping[str, Any], tensors: Mapping[str, TensorEntry]) -> AdapterFolder:
    """Read what an adapter is, and refuse all but a plain LoRA on linear layers.

    Args:
        config: The content of `adapter_config.json`, untrusted.
        tensors: The header of `adapter_model.safetensors`.

    Raises:
        InvalidCheckpointError: Names the key, or the tensor, that is not understood.
    """
    rank = _rank(config)
    if not tensors:
        raise _invalid(f"{WEIGHTS_NAME} holds no tensors")
    for name, entry in tensors.items():
        layer, part = _split(name)
        other = _join(layer, _PARTS[1 - _PARTS.index(part)])
        if other not in tensors:
            raise _invalid(f"{WEIGHTS_NAME} lacks the tensor {other[:200]!r}")
        if entry.dtype not in _FLOATS or len(entry.shape) != 2:
            raise _invalid(f"tensor {name[:200]!r} is no matrix of F32, F16 or BF16")
        if entry.shape[_PARTS.index(part)] != rank:
            raise _invalid(
                f"tensor {name[:200]!r} has the shape {list(entry.shape)}, which does not fit the "
                f"rank {rank} of {CONFIG_NAME}"
            )
    base = config.get("base_model_name_or_path")
    return AdapterFolder(
        base=base if isinstance(base, str) else "",
        rank=rank,
        tensors={name: entry.shape for name, entry in tensors.items()},
    )


def require_fits(adapter: AdapterFolder, base_folder: Path) -> None:
    """Make sure that every matrix of an adapter belongs to a layer of its base. Blocking.

    Raises:
        InvalidCheckpointError: Names the first tensor that does not, and the shape that would.
        OSError: A file of the base cannot be read.
    """
    shapes = {
        name.removeprefix(_BASE_HEAD): entry.shape
        for name, entry in read_tensors(base_folder).items()
    }
    for name, shape in adapter.tensors.items():
        layer, part = _split(name)
        kind, weight = layer.rpartition(".")[2], shapes.get(layer + _TAIL)
        if kind not in _ADAPTED or weight is None or len(weight) != 2:
            raise _invalid(
                f"tensor {name[:200]!r} adapts a layer that the base does not have", param="base"
            )
        size_out, size_in = weight
        fitting = (adapter.rank, size_in) if part == "lora_A" else (size_out, adapter.rank)
        if shape != fitting:
            raise _invalid(
                f"tensor {name[:200]!r} has the shape {list(shape)}; on this base it would have "
                f"{list(fitting)}",
                param="base",
            )


def adapter_bytes(folder: Path) -> int:
    """Return the bytes of an adapter's matrices in float32, as engines hold them. Blocking.

    Raises:
        InvalidCheckpointError: The file of weights is not one.
        OSError: It cannot be read.
    """
    tensors = read_header(folder / WEIGHTS_NAME)
    return _BYTES_PER_FLOAT * sum(prod(entry.shape) for entry in tensors.values())


def _rank(config: Mapping[str, Any]) -> int:
    if config.get("peft_type") != "LORA":
        raise _invalid(f"{CONFIG_NAME} has peft_type {str(config.get('peft_type'))[:100]!r}")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise _invalid(f"{CONFIG_NAME} has task_type {str(config['task_type'])[:100]!r}")
    if config.get("bias", "none") != "none":
        raise _invalid(f"{CONFIG_NAME} has a bias")
    for name in _present(config):
        raise _invalid(f"{CONFIG_NAME} has {name}, which is not implemented")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= LIMITS.lora_rank:
        raise _invalid(f"{CONFIG_NAME} has no r from 1 to {LIMITS.lora_rank}")
    if isinstance(alpha, bool) or not (isinstance(alpha, int | float) and math.isfinite(alpha)):
        raise _invalid(f"{CONFIG_NAME} has no number lora_alpha")
    return rank


def _present(config: Mapping[str, Any]) -> Iterator[str]:
    return (name for name in _ABSENT if config.get(name))


def _split(name: str) -> tuple[str, str]:
    """Return the layer that a tensor adapts, and which of the two matrices it is."""
    layer, _, part = name.removesuffix(_TAIL).rpartition(".")
    if not (name.startswith(_HEAD) and name.endswith(_TAIL) and part in _PARTS):
        raise _invalid(f"{WEIGHTS_NAME} holds the tensor {name[:200]!r}, which is no LoRA's")
    return layer.removeprefix(_HEAD), part


def _join(layer: str, part: str) -> str:
    return f"{_HEAD}{layer}.{part}{_TAIL}"


def _invalid(what: str, *, param: str = "source") -> InvalidCheckpointError:
    return InvalidCheckpointError(
        f"the adapter does not fit: {what}."
        if param == "base"
        else f"the adapter is not usable: {what}.",
        param=param,
        hint="Served are LoRA adapters as PEFT writes them, on the linear layers of our decoder.",
    )
