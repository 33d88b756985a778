"""Folders of networks that `transformers` computes: opened to be served or trained, and written.

No code of a folder is ever run: the class is one of the installed library, weights are safetensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from purvey.contracts.hugging_face import INPUTS_NAME
from purvey.contracts.model import AudioSpec, ImageSpec, ModelManifest
from purvey.errors import InvalidCheckpointError
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.json_file import read_object, write_object
from purvey.models.folder.manifest import read_manifest, write_manifest
from purvey.models.folder.safetensors_file import read_header
from purvey.models.initialised import Initialised
from purvey.models.pretrained.modules import Pretrained, PretrainedViT, PretrainedWav2Vec2
from purvey.models.weights import CONFIG_NAME, refuse_unsafe_files, weight_files

NORMALISED = "is_normalised"
"""In the hyperparameters of family `wav2vec2`."""
_HEADS = ("network.classifier.", "network.projector.")
_NEVER_USED = frozenset({"network.wav2vec2.masked_spec_embed"})
_BILINEAR = 2
_REFUSALS = (ValueError, OSError, RuntimeError, LookupError, TypeError, AttributeError, ImportError)
"""What the library raises over a folder that does not fit; it has no error of its own."""


@dataclass(frozen=True, kw_only=True)
class StartedPretrained:
    """A network before its first step, what it is, and what came from where."""

    module: Pretrained
    manifest: ModelManifest
    initialised: Initialised


def load_pretrained(folder: Path, manifest: ModelManifest) -> Pretrained:
    """Load a folder that ends in labels, float32 on the CPU, in evaluation mode.

    Raises:
        InvalidCheckpointError: Names what is missing, unsafe or does not fit, or it has no labels.
    """
    if len(manifest.labels) < 2:
        raise _refusal("this folder ends in no labels: train a head on it.")
    started = _open(folder, manifest, manifest.labels)
    _require(started.initialised, but=())
    return started.module


def start_pretrained(folder: Path, *, labels: Sequence[str]) -> StartedPretrained:
    """Open a folder for training; its own head is kept where it has these very labels.

    A new head is drawn from torch's default generator.

    Raises:
        InvalidCheckpointError: Names what is missing, unsafe or does not fit.
    """
    manifest = read_manifest(folder)
    started = _open(folder, manifest, labels)
    _require(started.initialised, but=_HEADS)
    if tuple(labels) == manifest.labels:
        return started
    output = started.module.network.classifier
    with torch.no_grad():  # of as many labels it was taken over, and means others
        output.weight.normal_(0.0, started.module.network.config.initializer_range)
        output.bias.zero_()
    loaded = [name for name in started.initialised.loaded if not name.startswith(_HEADS[0])]
    left = [name for name in started.initialised.loaded if name.startswith(_HEADS[0])]
    unused = [*started.initialised.unused, *left]
    found = Initialised.of(started.module.state_dict(), loaded, unused=unused)
    return replace(started, initialised=found)


def save_pretrained(folder: Path, module: Pretrained, manifest: ModelManifest) -> None:
    """Write the folder as the library does, with how inputs are prepared, and our manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    module.network.save_pretrained(folder)
    ((_, spec),) = manifest.inputs.items()
    write_object(folder / INPUTS_NAME, _prepared(spec, manifest))
    write_manifest(folder, manifest)


def _prepared(spec: object, manifest: ModelManifest) -> dict[str, Any]:
    """Return the content of `preprocessor_config.json`."""
    if isinstance(spec, AudioSpec):
        return {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "sampling_rate": spec.sample_rate_hz,
            "do_normalize": bool(manifest.hyperparameters.get(NORMALISED, True)),
            "feature_size": 1,
            "padding_value": 0.0,
        }
    assert isinstance(spec, ImageSpec), "images or recordings are classified"
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": spec.height, "width": spec.width},
        "resample": _BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": bool(spec.mean),
        "image_mean": list(spec.mean) or [0.0] * spec.channels,
        "image_std": list(spec.std) or [1.0] * spec.channels,
    }


def _open(folder: Path, manifest: ModelManifest, labels: Sequence[str]) -> StartedPretrained:
    refuse_unsafe_files(folder)
    fields = Fields(read_object(folder / CONFIG_NAME))
    fields.refuse_code()
    if fields.values.get("quantization_config") is not None:
        raise fields.refusal("quantization_config", "is not implemented; export full weights")
    if "input" not in manifest.inputs:
        raise _refusal(f"{CONFIG_NAME} or {INPUTS_NAME} describes no input that is prepared here.")
    for file in weight_files(folder):
        read_header(file)  # strictly, before a library maps it
    network, told = _network(folder, manifest, labels)
    module: Pretrained = PretrainedViT(network)
    if manifest.family == "wav2vec2":
        own = Fields(manifest.hyperparameters, at="hyperparameters.")
        own.refuse_unknown((NORMALISED,))
        module = PretrainedWav2Vec2(network, is_normalised=own.flag(NORMALISED, default=True))
    missing = {_named(key) for kind in ("missing_keys", "mismatched_keys") for key in told[kind]}
    names = module.state_dict()
    found = Initialised.of(
        names, names.keys() - missing, unused=sorted(map(str, told["unexpected_keys"]))
    )
    return StartedPretrained(module=module.eval(), manifest=manifest, initialised=found)


def _network(
    folder: Path, manifest: ModelManifest, labels: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
    try:
        import transformers
    except ImportError:
        raise InvalidCheckpointError(
            f"a network of family {manifest.family!r} needs the package 'transformers'.",
            param="model",
            hint="Install purvey[engine].",
        ) from None
    classes = {
        "vit": (transformers.ViTConfig, transformers.ViTForImageClassification),
        "wav2vec2": (
            transformers.Wav2Vec2Config,
            transformers.Wav2Vec2ForSequenceClassification,
        ),
    }
    config_class, network_class = classes[manifest.family]
    try:
        config = config_class.from_pretrained(folder, local_files_only=True)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
        network, told = network_class.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except _REFUSALS as error:
        message = f"transformers cannot load this {manifest.family} ({type(error).__name__})."
        raise _refusal(message) from error
    return network, told


def _require(found: Initialised, *, but: tuple[str, ...]) -> None:
    """Refuse a folder that lacks a tensor, but for those whose names begin so."""
    for name in found.fresh:
        if name not in _NEVER_USED and not name.startswith(but or ("\0",)):
            raise _refusal(f"tensor {name[:200]!r} is missing or misshapen.")


def _named(key: object) -> str:
    """Return our name of a tensor that the library reports, by itself or with its shapes."""
    name = key[0] if isinstance(key, tuple) else key
    return f"network.{name}"


def _refusal(message: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(message, param="model")
