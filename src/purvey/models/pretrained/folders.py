"""Folders of networks that `transformers` computes: opened to be served or trained, and written.

No code of a folder is ever run: the class is one of the installed library, weights are safetensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from purvey.contracts.hugging_face import INPUTS_NAME, squeezed
from purvey.contracts.model import AudioSpec, ImageSpec, ModelManifest
from purvey.errors import InvalidCheckpointError
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.json_file import write_object
from purvey.models.folder.manifest import read_manifest, write_manifest
from purvey.models.initialised import Initialised
from purvey.models.pretrained.library import check_folder_of_library, open_network
from purvey.models.pretrained.modules import Pretrained, PretrainedViT, PretrainedWav2Vec2
from purvey.models.weights import CONFIG_NAME

NORMALISED = "is_normalised"
"""In the hyperparameters of family `wav2vec2`."""
_HEADS = ("network.classifier.", "network.projector.")
_NEVER_USED = frozenset({"network.wav2vec2.masked_spec_embed"})
_BILINEAR, _BICUBIC = 2, 3
_CLASSES = {
    "clip": "CLIPForImageClassification",
    "vit": "ViTForImageClassification",
    "wav2vec2": "Wav2Vec2ForSequenceClassification",
}
"""Of the library, by family."""


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
    manifest = _as_classifier(read_manifest(folder))
    started = _open(folder, manifest, labels)
    _require(started.initialised, but=_HEADS)
    if tuple(labels) == manifest.labels:
        return started
    output = started.module.network.classifier
    with torch.no_grad():  # of as many labels it was taken over, and means others
        output.weight.normal_(0.0, _deviation(started.module.network.config))
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
    write_object(folder / INPUTS_NAME, prepared_inputs(spec, manifest))
    write_manifest(folder, manifest)


def prepared_inputs(spec: object, manifest: ModelManifest) -> dict[str, Any]:
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
    return prepared_images(spec, kind="CLIP" if manifest.family == "clip" else "ViT")


def prepared_images(spec: ImageSpec, *, kind: str) -> dict[str, Any]:
    """Return the content of `preprocessor_config.json` of a network that sees.

    Args:
        spec: How it sees images.
        kind: `CLIP` or `ViT`.
    """
    whole = {"height": spec.height, "width": spec.width}
    return {
        "image_processor_type": f"{kind}ImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": spec.height} if spec.is_cropped else whole,
        **({"do_center_crop": spec.is_cropped, "crop_size": whole} if kind == "CLIP" else {}),
        "resample": _BICUBIC if spec.is_bicubic else _BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": bool(spec.mean),
        "image_mean": list(spec.mean) or [0.0] * spec.channels,
        "image_std": list(spec.std) or [1.0] * spec.channels,
    }


def _as_classifier(manifest: ModelManifest) -> ModelManifest:
    """Return what a folder is as the start of a classifier: of CLIP, the half that sees.

    What writes down speech starts one of recordings.
    """
    if (manifest.family, manifest.task) == ("wav2vec2", "speech-recognition"):
        return msgspec.structs.replace(manifest, task="audio-classification", vocabulary=())
    spec = manifest.inputs.get("image")
    if (manifest.family, manifest.task) != ("clip", "embedding") or not isinstance(spec, ImageSpec):
        return manifest
    return ModelManifest(
        family="clip", task="image-classification", inputs={"input": squeezed(spec)}
    )


def _deviation(config: Any) -> float:  # noqa: ANN401 (transformers is untyped here)
    """Return how wide the library draws a head's weights."""
    if config.model_type == "clip":
        return float(config.vision_config.hidden_size**-0.5)
    return float(config.initializer_range)


def _open(folder: Path, manifest: ModelManifest, labels: Sequence[str]) -> StartedPretrained:
    check_folder_of_library(folder)
    if "input" not in manifest.inputs:
        raise _refusal(f"{CONFIG_NAME} or {INPUTS_NAME} describes no input that is prepared here.")
    names = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    family = manifest.family
    opened = open_network(folder, _CLASSES[family], family=family, changes=names)
    module: Pretrained = PretrainedViT(opened.network)
    if manifest.family == "wav2vec2":
        own = Fields(manifest.hyperparameters, at="hyperparameters.")
        own.refuse_unknown((NORMALISED,))
        is_normalised = own.flag(NORMALISED, default=True)
        module = PretrainedWav2Vec2(opened.network, is_normalised=is_normalised)
    missing = {f"network.{name}" for name in opened.missing}
    state = module.state_dict()
    found = Initialised.of(state, state.keys() - missing, unused=opened.unused)
    return StartedPretrained(module=module.eval(), manifest=manifest, initialised=found)


def _require(found: Initialised, *, but: tuple[str, ...]) -> None:
    """Refuse a folder that lacks a tensor, but for those whose names begin so."""
    for name in found.fresh:
        if name not in _NEVER_USED and not name.startswith(but or ("\0",)):
            raise _refusal(f"tensor {name[:200]!r} is missing or misshapen.")


def _refusal(message: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(message, param="model")
