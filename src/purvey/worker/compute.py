"""Where a language model is computed: on the processor, or on a CUDA device.

The core, the door and everything that answers are the same; only what runs a step differs.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from purvey.contracts.deployment import Precision
from purvey.contracts.engine import ComputePath, LoadModel
from purvey.engine.adapters.bank import AdapterBank
from purvey.engine.foreign.footprint import expected as expected_foreign
from purvey.engine.foreign.footprint import workspace_bytes as workspace_of_tile
from purvey.engine.foreign.runner import TransformersRunner
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import BLOCK_TOKENS, KVCache, blocks_in
from purvey.engine.linears.base import LinearFactory
from purvey.engine.linears.choice import NAMES, Chosen, linears
from purvey.engine.linears.footprint import Footprint, expected, require_room, workspace_bytes
from purvey.engine.prepacked.kept import KeptWeights
from purvey.engine.prepacked.kinds import kind_of
from purvey.engine.prepacked.shelf import Shelf
from purvey.engine.runner import Runner, StepRunner
from purvey.errors import CapacityError, SettingError
from purvey.models.decoder import Decoder
from purvey.models.folder.manifest import read_manifest
from purvey.models.foreign import ForeignModel
from purvey.models.language import LanguageModel
from purvey.worker.devices import has_cuda

_CUDA_TYPES: dict[Chosen, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model will be computed, and in what.

    Args:
        is_cuda: On the first CUDA device, else on the processor.
        chosen: What the linear layers are computed in.
        kept: Its layers as they are kept on disk; None where nothing is kept of that precision.
    """

    is_cuda: bool
    chosen: Chosen
    kept: KeptWeights | None = None


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What runs a decoder's steps, and what it takes.

    Args:
        runner: Runs them.
        weights_bytes: Weights as they are computed with.
        cache_bytes: Keys and values.
        workspace_bytes: What one step may take beside it.
        precision: What a loaded model says of itself.
        path: Our own networks, or those of `transformers`.
        bank: Where its adapters are kept; None where none are computed.
    """

    runner: StepRunner
    weights_bytes: int
    cache_bytes: int
    workspace_bytes: int
    precision: str
    path: ComputePath = "native"
    bank: AdapterBank | None = None

    @property
    def can_share_blocks(self) -> bool:
        """Whether what one sequence has computed serves another."""
        return self.path == "native"


def place_of(load: LoadModel) -> Place:
    """Decide where a language model goes; refuse one that does not fit.

    Raises:
        SettingError: There is no CUDA device, or it computes nothing in that precision.
        CapacityError: The memory that is free does not hold it; the message says the arithmetic.
        InvalidCheckpointError: The folder is not usable.
    """
    is_foreign = read_manifest(Path(load.source.folder)).family == "transformers"
    if is_foreign or not has_cuda(load.device, param="device"):
        footprint = expected_foreign(load) if is_foreign else expected(load)
        require_room(footprint, name=load.source.name)
        kept = None if is_foreign else _kept(load, footprint)
        return Place(is_cuda=False, chosen=footprint.chosen, kept=kept)
    place = Place(is_cuda=True, chosen=_cuda_precision(load.precision))
    _require_device_room(expected(load), place, load)
    return place


def compute_of(model: LanguageModel | ForeignModel, place: Place, load: LoadModel) -> Compute:
    """Make a model ready; our own decoder is emptied on the way.

    Raises:
        SettingError: The memory for keys and values is too small for this model.
    """
    if isinstance(model, ForeignModel):
        return _foreign(model, load)
    return (
        _on_cuda(model.decoder, place, load)
        if place.is_cuda
        else _on_cpu(model.decoder, place, load)
    )


def _foreign(model: ForeignModel, load: LoadModel) -> Compute:
    runner = TransformersRunner(model, kv_cache_bytes=load.kv_cache_bytes)
    return Compute(
        runner=runner,
        weights_bytes=model.num_bytes,
        cache_bytes=runner.cache.num_bytes,
        workspace_bytes=workspace_of_tile(model.vocabulary_size),
        precision=NAMES["fp32"],
        path="transformers",
    )


def _on_cpu(decoder: Decoder, place: Place, load: LoadModel) -> Compute:
    config = decoder.config
    num_blocks = blocks_in(load.kv_cache_bytes, config)

    def make(factory: LinearFactory) -> FrozenDecoder:
        return FrozenDecoder(decoder, max_positions=num_blocks * BLOCK_TOKENS, linears=factory)

    frozen = make(linears(place.chosen)) if place.kept is None else place.kept.frozen(make)
    cache = KVCache(config, num_blocks=num_blocks)
    dtype = torch.float32 if place.chosen == "fp32" else torch.bfloat16
    bank = AdapterBank(config, dtype=dtype, adapter_bytes=load.adapter_bytes)
    return Compute(
        runner=Runner(frozen, cache, bank),
        weights_bytes=frozen.num_bytes,
        cache_bytes=cache.num_bytes,
        workspace_bytes=workspace_bytes(config, max_batch_tokens=load.max_batch_tokens),
        precision=NAMES[place.chosen],
        bank=bank,
    )


def _kept(load: LoadModel, footprint: Footprint) -> KeptWeights | None:
    """Look for a model's layers among those that are kept; an adapter's are merged and are not."""
    kind = kind_of(footprint.chosen)
    if kind is None or load.source.base_folder is not None:
        return None
    has_shelf = bool(load.kept_folder and load.kept_bytes and load.source.digest)
    return KeptWeights(
        kind,
        digest=load.source.digest,
        shelf=Shelf(Path(load.kept_folder), max_bytes=load.kept_bytes) if has_shelf else None,
        num_bytes=footprint.weights_bytes,
    )


def _on_cuda(decoder: Decoder, place: Place, load: LoadModel) -> Compute:
    from purvey.engine.cuda.cache import CudaCache
    from purvey.engine.cuda.decoder import CudaDecoder
    from purvey.engine.cuda.runner import CudaRunner

    config, device = decoder.config, torch.device("cuda")
    dtype = _CUDA_TYPES[place.chosen]
    num_blocks = blocks_in(load.kv_cache_bytes, config, number_bytes=dtype.itemsize)
    max_positions = min(config.context_tokens, num_blocks * BLOCK_TOKENS)
    moved = CudaDecoder(decoder, dtype=dtype, device=device, max_positions=max_positions)
    cache = CudaCache(config, num_blocks=num_blocks, dtype=dtype, device=device)
    return Compute(
        runner=CudaRunner(moved, cache, max_positions=max_positions),
        weights_bytes=moved.num_bytes,
        cache_bytes=cache.num_bytes,
        workspace_bytes=workspace_bytes(config, max_batch_tokens=load.max_batch_tokens),
        precision=NAMES[place.chosen],
    )


def _cuda_precision(precision: Precision) -> Chosen:
    if precision in ("auto", "bf16"):
        return "bf16"
    if precision == "fp32":
        return "fp32"
    raise SettingError(
        f"a CUDA device computes in bf16 or fp32, not in {precision}.",
        param="precision",
        hint="Set precision to auto, bf16 or fp32, or device to cpu.",
    )


def _require_device_room(footprint: Footprint, place: Place, load: LoadModel) -> None:
    weights_bytes = footprint.num_weights * _CUDA_TYPES[place.chosen].itemsize
    needed = weights_bytes + load.kv_cache_bytes + footprint.workspace_bytes
    free, _ = torch.cuda.mem_get_info()
    if needed > free:
        parts = (weights_bytes, load.kv_cache_bytes, footprint.workspace_bytes, free)
        weights, cache, workspace, left = (f"{part / _GIB:.3f} GiB" for part in parts)
        raise CapacityError(
            f"the model {load.source.name!r} does not fit: weights {weights} + KV cache {cache} + "
            f"workspace {workspace}, and {left} of the device are free.",
            hint="Unload another model, lower kv_cache_bytes, or set device to cpu.",
        )
