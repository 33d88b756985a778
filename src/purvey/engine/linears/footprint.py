"""What a language model takes while it is served, counted before anything is read.

Weights take the bytes of the precision, the embedding as it is stored; the KV cache is as ordered;
the workspace is activations, logits and angles of the largest step; loading takes copies of the
largest matrix on its way into its layer's form.
"""

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from torch import nn

from purvey.contracts.engine import LoadModel
from purvey.engine.attention.outputs import workspace_bytes as attention_workspace_bytes
from purvey.engine.linears.choice import Chosen, choose
from purvey.errors import CapacityError
from purvey.ipc.confinement import free_memory
from purvey.models.config import DecoderConfig
from purvey.models.skeleton import skeleton
from purvey.models.weights import read_config, stored_bytes

BYTES_PER_WEIGHT: dict[Chosen, float] = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.625}
"""In a layer, the scales of 4-bit groups among them; the one scale of an 8-bit output is not."""
_BYTES_PER_FLOAT = 4
_LOADING_BYTES_PER_WEIGHT = 16
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes, by what they are for."""

    chosen: Chosen
    num_weights: int
    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int
    loading_bytes: int

    @property
    def num_bytes(self) -> int:
        """The whole, at its peak."""
        served = self.weights_bytes + self.kv_cache_bytes + self.workspace_bytes
        return served + self.loading_bytes

    @property
    def text(self) -> str:
        """The arithmetic, for people."""
        return (
            f"weights {_gib(self.weights_bytes)} ({self.num_weights} in {self.chosen}) + KV cache "
            f"{_gib(self.kv_cache_bytes)} + workspace {_gib(self.workspace_bytes)} + loading "
            f"{_gib(self.loading_bytes)} = {_gib(self.num_bytes)}"
        )


def expected(load: LoadModel) -> Footprint:
    """Count from the configuration and the headers of the files.

    An adapter is merged onto its base in float32 before anything is converted.

    Raises:
        InvalidCheckpointError: The folder is not usable.
    """
    folder = Path(load.source.base_folder or load.source.folder)
    footprint = of_shape(
        read_config(folder),
        load,
        embedding_item_bytes=stored_bytes(folder, "embed_tokens.weight"),
    )
    if load.source.base_folder is None:
        return footprint
    merging_bytes = footprint.num_weights * _BYTES_PER_FLOAT
    return replace(footprint, loading_bytes=footprint.loading_bytes + merging_bytes)


def of_shape(config: DecoderConfig, load: LoadModel, *, embedding_item_bytes: int) -> Footprint:
    """Count from a shape alone."""
    decoder = skeleton(config)
    num_weights = sum(parameter.numel() for parameter in decoder.parameters())
    chosen = choose(load.precision, num_parameters=num_weights)
    layers = [m.weight.numel() for m in decoder.layers.modules() if isinstance(m, nn.Linear)]
    embedding = config.vocabulary_size * config.hidden_size
    head_bytes = 1.0 if chosen == "int4" else BYTES_PER_WEIGHT[chosen]
    weights_bytes = (
        sum(layers) * BYTES_PER_WEIGHT[chosen]
        + embedding * head_bytes
        + embedding * embedding_item_bytes
    )
    return Footprint(
        chosen=chosen,
        num_weights=num_weights,
        weights_bytes=ceil(weights_bytes),
        kv_cache_bytes=load.kv_cache_bytes,
        workspace_bytes=workspace_bytes(config, max_batch_tokens=load.max_batch_tokens),
        loading_bytes=_LOADING_BYTES_PER_WEIGHT * 2 * max(layers),  # gate and up are joined
    )


def workspace_bytes(config: DecoderConfig, *, max_batch_tokens: int) -> int:
    """Count what the largest step holds at once: rows, wanted logits, angles, and attention's."""
    heads = config.num_heads + 2 * config.num_kv_heads
    row = 6 * config.hidden_size + 3 * heads * config.head_size + 4 * config.mlp_size
    logits = 2 * config.vocabulary_size
    angles = 2 * config.context_tokens * config.head_size
    attention_bytes = attention_workspace_bytes(config, max_rows=max_batch_tokens)
    return _BYTES_PER_FLOAT * (max_batch_tokens * (row + logits) + angles) + attention_bytes


def require_room(footprint: Footprint, *, name: str, available_bytes: int | None = None) -> None:
    """Refuse a model that the memory that is free now does not hold.

    Raises:
        CapacityError: Says the arithmetic, and what to change.
    """
    free_bytes = free_memory() if available_bytes is None else available_bytes
    if footprint.num_bytes > free_bytes:
        raise CapacityError(
            f"the model {name!r} does not fit: {footprint.text}, and {_gib(free_bytes)} are free.",
            hint="Unload another model, lower kv_cache_bytes, or choose a smaller precision "
            "(bf16, int8, int4).",
        )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.3f} GiB"
