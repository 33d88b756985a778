"""What a Hugging Face folder without a manifest is for, told from its `config.json` alone."""

import re
from collections.abc import Mapping
from typing import Any, get_args

from purvey.contracts.model import DecoderFamily, EncoderFamily, ModelManifest

DECODERS: tuple[str, ...] = get_args(DecoderFamily)
ENCODERS: tuple[str, ...] = get_args(EncoderFamily)
MODULES_NAME = "modules.json"
"""What `sentence-transformers` writes beside the weights: the steps from a text to its vector."""
_CROSS_ENCODER = "ForSequenceClassification"
_DEFAULT_LABELS = 2
_CAUSAL = re.compile(r"[A-Za-z0-9_]{1,100}(?:ForCausalLM|LMHeadModel)")


def manifest_of(config: Mapping[str, Any], *, has_modules: bool) -> ModelManifest:
    """Say what a folder holds.

    An encoder gives vectors, or with one label scores pairs; a decoder continues text, or gives
    vectors where `modules.json` says how. A causal language model of any other architecture is
    left to `transformers`; the engine finds out whether that knows it.

    Args:
        config: The content of `config.json`, untrusted.
        has_modules: Whether `modules.json` is there.
    """
    if config.get("model_type") in ENCODERS:
        scores_pairs = is_classifier(config) and not has_modules
        return ModelManifest(family="encoder", task="rerank" if scores_pairs else "embedding")
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
    """Tell whether the weights end in a classifier's head."""
    named = config.get("architectures")
    names = named if isinstance(named, list) else []
    return any(isinstance(name, str) and name.endswith(_CROSS_ENCODER) for name in names)


def num_labels(config: Mapping[str, Any]) -> int:
    """Return the classes of a classifier; `transformers` takes an absent number for two."""
    labels = config.get("id2label")
    if isinstance(labels, dict):
        return len(labels)
    given = config.get("num_labels")
    return given if type(given) is int else _DEFAULT_LABELS
