"""What a Hugging Face folder without a manifest is for, told from its `config.json` alone."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

import msgspec

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import (
    AudioSpec,
    DecoderFamily,
    EncoderFamily,
    ImageSpec,
    InputSpec,
    ModelManifest,
    PretrainedFamily,
    TextSpec,
)

DECODERS: tuple[str, ...] = get_args(DecoderFamily)
ENCODERS: tuple[str, ...] = get_args(EncoderFamily)
PRETRAINED: tuple[str, ...] = get_args(PretrainedFamily)
MODULES_NAME = "modules.json"
"""What `sentence-transformers` writes beside the weights: the steps from a text to its vector."""
INPUTS_NAME = "preprocessor_config.json"
"""What says how images or recordings are prepared."""
_UNSAID: Mapping[str, Any] = MappingProxyType({})
_IMAGE_HEAD = "ForImageClassification"
_CTC_HEAD = "ForCTC"
_CLIP_IMAGES: Mapping[str, Any] = MappingProxyType(
    {
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
)
"""What the library takes of CLIP where nothing is said."""
_BICUBIC = 3
_LARGEST_SIDE = 1_024
_RATES_HZ = range(1_000, 48_001)
_LONGEST_S = 30.0
_CROSS_ENCODER = "ForSequenceClassification"
_DEFAULT_LABELS = 2
_CAUSAL = re.compile(r"[A-Za-z0-9_]{1,100}(?:ForCausalLM|LMHeadModel)")


def manifest_of(
    config: Mapping[str, Any], *, has_modules: bool, inputs: Mapping[str, Any] = _UNSAID
) -> ModelManifest:
    """Say what a folder holds.

    An encoder gives vectors, or with one label scores pairs, or with several classifies texts; a
    decoder continues text, or gives vectors where `modules.json` says how. A causal language model
    of any other architecture is left to `transformers`; the engine finds out whether that knows it.

    Args:
        config: The content of `config.json`, untrusted.
        has_modules: Whether `modules.json` is there.
        inputs: The content of `preprocessor_config.json`, untrusted.
    """
    if config.get("model_type") in ENCODERS:
        if not is_classifier(config) or has_modules:
            return ModelManifest(family="encoder", task="embedding")
        if num_labels(config) == 1:
            return ModelManifest(family="encoder", task="rerank")
        return ModelManifest(
            family="encoder",
            task="text-classification",
            labels=label_names(config),
            inputs={"input": TextSpec()},
        )
    if config.get("model_type") == "vit":
        return _image_classifier(config, inputs)
    if config.get("model_type") == "clip":
        return _of_images_and_texts(config, inputs)
    if config.get("model_type") == "wav2vec2":
        return _hearing_samples(config, inputs)
    if config.get("model_type") == "whisper":
        return _hearing_bands(config, inputs)
    if has_modules:
        return ModelManifest(family="decoder", task="embedding")
    model_type = config.get("model_type")
    is_foreign = isinstance(model_type, str) and model_type not in DECODERS
    if is_foreign and causal_architecture(config) is not None:
        return ModelManifest(family="transformers", task="text-generation")
    return ModelManifest(family="decoder", task="text-generation")


def causal_architecture(config: Mapping[str, Any]) -> str | None:
    """Return the one class that a configuration names, if it continues text."""
    match config.get("architectures"):
        case [str(name)] if _CAUSAL.fullmatch(name):
            return name
    return None


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Tell whether the weights end in a head that classifies sequences."""
    return _names_class(config, _CROSS_ENCODER)


def num_labels(config: Mapping[str, Any]) -> int:
    """Return the classes of a classifier; `transformers` takes an absent number for two."""
    labels = config.get("id2label")
    if isinstance(labels, dict):
        return len(labels)
    given = config.get("num_labels")
    return given if type(given) is int else _DEFAULT_LABELS


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a classifier's labels in the order of its logits.

    They are `LABEL_0`, `LABEL_1`, ... where the file does not name every one by its number, or two
    alike; none at all where they are more than the limits table allows.
    """
    size, named = num_labels(config), config.get("id2label")
    if size > LIMITS.labels:
        return ()
    given = named if isinstance(named, dict) else {}
    names = [given.get(str(number)) for number in range(size)]
    if all(isinstance(name, str) and name for name in names) and len(set(names)) == size:
        return tuple(map(str, names))
    return tuple(f"LABEL_{number}" for number in range(size))


def _image_classifier(config: Mapping[str, Any], images: Mapping[str, Any]) -> ModelManifest:
    """Say what a folder of a vision transformer holds; without a head it has no labels."""
    spec = _image_spec(config, images)
    return ModelManifest(
        family="vit",
        task="image-classification",
        labels=label_names(config) if _names_class(config, _IMAGE_HEAD) else (),
        inputs={} if spec is None else {"input": spec},
    )


def _of_images_and_texts(config: Mapping[str, Any], images: Mapping[str, Any]) -> ModelManifest:
    """Say what a folder of CLIP holds: vectors of images and texts, or a classifier of images."""
    found = config.get("vision_config")
    vision: Mapping[str, Any] = found if isinstance(found, dict) else {}
    spec = _image_spec(vision, {**_CLIP_IMAGES, **images})
    if spec is not None:
        spec = _fitted(spec, images)
    if not _names_class(config, _IMAGE_HEAD):
        inputs: dict[str, InputSpec] = {}
        if spec is not None:
            inputs = {"image": spec, "text": TextSpec()}
        return ModelManifest(family="clip", task="embedding", inputs=inputs)
    return ModelManifest(
        family="clip",
        task="image-classification",
        labels=label_names(config),
        inputs={} if spec is None else {"input": squeezed(spec)},
    )


def squeezed(spec: ImageSpec) -> ImageSpec:
    """Return how the whole of an image is seen, for what tells places of it apart."""
    return msgspec.structs.replace(spec, is_cropped=False)


def _fitted(spec: ImageSpec, images: Mapping[str, Any]) -> ImageSpec | None:
    """Return how CLIP resizes images; None where that is not done here."""
    side, size, crop = spec.height, images.get("size"), images.get("crop_size")
    crops = (None, side, {"height": side, "width": side})
    is_cut = images.get("do_center_crop") is not False
    if spec.width != side or images.get("do_resize") is False or crop not in crops:
        return None
    is_whole = size == {"height": side, "width": side}
    if not is_whole and (size not in (None, side, {"shortest_edge": side}) or not is_cut):
        return None
    is_bicubic = images.get("resample", _BICUBIC) == _BICUBIC
    return msgspec.structs.replace(spec, is_cropped=not is_whole, is_bicubic=is_bicubic)


def _hearing_samples(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> ModelManifest:
    """Say what a folder that hears samples holds.

    With a CTC head it writes down speech; else it classifies, and without a head has no labels.
    """
    rate_hz = inputs.get("sampling_rate", 16_000)
    spec = AudioSpec(sample_rate_hz=rate_hz, max_s=_LONGEST_S, num_mels=0)
    is_known = type(rate_hz) is int and rate_hz in _RATES_HZ
    return ModelManifest(
        family="wav2vec2",
        task="speech-recognition" if _names_class(config, _CTC_HEAD) else "audio-classification",
        labels=label_names(config) if is_classifier(config) else (),
        inputs={"input": spec} if is_known else {},
        hyperparameters={"is_normalised": inputs.get("do_normalize") is not False},
    )


def _hearing_bands(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> ModelManifest:
    """Say what a folder of Whisper holds: windows of a fixed length, in mel bands.

    There is no input where the two files do not agree on bands or on the length of a window.
    """
    rate_hz, hop = inputs.get("sampling_rate", 16_000), inputs.get("hop_length", 160)
    num_mels, num_given = config.get("num_mel_bins", 80), inputs.get("feature_size", 80)
    steps = config.get("max_source_positions", 1_500)
    window_s = inputs.get("chunk_length", 30)
    numbers = (rate_hz, hop, num_mels, steps, window_s)
    is_known = all(type(n) is int and n > 0 for n in numbers) and rate_hz in _RATES_HZ
    is_agreed = is_known and num_given == num_mels and 2 * steps * hop == window_s * rate_hz
    spec = AudioSpec(sample_rate_hz=rate_hz, max_s=window_s, num_mels=num_mels)
    return ModelManifest(
        family="whisper",
        task="speech-recognition",
        inputs={"input": spec} if is_agreed and window_s <= _LONGEST_S else {},
    )


def _image_spec(config: Mapping[str, Any], images: Mapping[str, Any]) -> ImageSpec | None:
    """Return how images are prepared; None where that is not done here."""
    size, channels = config.get("image_size", 224), config.get("num_channels", 3)
    sides = size if isinstance(size, list) else [size, size]
    is_sized = len(sides) == 2 and all(type(n) is int and 1 <= n <= _LARGEST_SIDE for n in sides)
    if not is_sized or channels not in (1, 3) or images.get("do_rescale") is False:
        return None
    if images.get("do_normalize") is False:
        return ImageSpec(height=sides[0], width=sides[1], channels=channels)
    middle = [0.5] * channels  # what the library takes where nothing is said
    mean, std = images.get("image_mean") or middle, images.get("image_std") or middle
    if not _are_numbers(mean, channels) or not _are_numbers(std, channels) or min(std) <= 0:
        return None
    return ImageSpec(
        height=sides[0],
        width=sides[1],
        channels=channels,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
    )


def _are_numbers(value: object, count: int) -> bool:
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(type(n) in (int, float) and abs(n) < _LARGEST_SIDE for n in value)


def _names_class(config: Mapping[str, Any], ending: str) -> bool:
    named = config.get("architectures")
    names = named if isinstance(named, list) else []
    return any(isinstance(name, str) and name.endswith(ending) for name in names)
