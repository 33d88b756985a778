"""Recipe defaults by task, merged under what the user wrote and before validation.

A default is written once, here, and resolved into the stored recipe; so a run never depends
on a default that changed later.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal, cast

from purvey.contracts.model import GENERATING, TrainedTask

Values = dict[str, Any]  # JSON values of a recipe, as `parse_recipe` takes them

_TEXT_CLASSIFIER: Values = {
    "model": {"architecture": "text-ngrams"},
    "optimizer": {"name": "adamw", "learning_rate": 5e-3},
    "train": {"epochs": 10, "batch_size": 32, "early_stopping": {"patience": 3}},
}
_IMAGE_CLASSIFIER: Values = {
    "model": {"architecture": "convnet"},
    "init": {"scheme": "kaiming_normal"},
    "optimizer": {"name": "sgd", "learning_rate": 0.02, "momentum": 0.9, "weight_decay": 5e-4},
    "train": {"epochs": 30, "batch_size": 32, "early_stopping": {"patience": 8}},
}
_MIXED: Values = {
    "model": {"architecture": "fusion"},
    "optimizer": {"name": "adamw", "learning_rate": 2e-3},
    "train": {"epochs": 20, "batch_size": 32, "early_stopping": {"patience": 5}},
}
_NEW_LANGUAGE_MODEL: Values = {
    "model": {"architecture": "decoder"},
    "optimizer": {"name": "adamw", "learning_rate": 3e-3, "weight_decay": 0.1},
    "train": {"epochs": 3, "batch_size": 8, "sequence_tokens": 256, "evals_per_epoch": 2},
}
_LORA: Values = {
    "optimizer": {"name": "adamw", "learning_rate": 1e-3, "betas": [0.9, 0.99]},
    "train": {"method": "lora", "epochs": 3, "batch_size": 8, "sequence_tokens": 1_024},
}
_FULL: Values = {
    "optimizer": {"name": "adamw", "learning_rate": 3e-4, "betas": [0.9, 0.99]},
    "train": {"method": "full", "epochs": 3, "batch_size": 8, "sequence_tokens": 1_024},
}


_AUDIO_CLASSIFIER: Values = {
    "model": {"architecture": "audio-convnet"},
    "optimizer": {"name": "adamw", "learning_rate": 2e-3, "weight_decay": 0.01},
    "augment": {
        "audio": {"frequency_masks": 1, "time_masks": 1, "shift_fraction": 0.1},
    },
    "train": {"epochs": 30, "batch_size": 32, "early_stopping": {"patience": 8}},
}
_SPEECH: Values = {
    "model": {"architecture": "ctc"},
    "optimizer": {
        "name": "muon",
        "learning_rate": 4e-3,
        "momentum": 0.95,
        "weight_decay": 0.01,
    },
    "train": {"epochs": 30, "batch_size": 16, "early_stopping": {"patience": 8}},
}
_TUNED_SPEECH: Values = _SPEECH | {
    "optimizer": {"name": "adamw", "learning_rate": 2e-3, "weight_decay": 0.01},
}
"""Of a base, which may be a pretrained one: no steps of equal length in every direction."""
_SEEING: Values = {
    "model": {"architecture": "vision-decoder"},
    "init": {"scheme": "xavier_uniform"},
    "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05},
    "train": {
        "epochs": 20,
        "batch_size": 32,
        "sequence_tokens": 512,
        "packing": False,
        "early_stopping": {"patience": 8},
    },
}
_NEW_ENCODER: Values = {
    "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01},
    "train": {
        "epochs": 10,
        "batch_size": 64,
        "sequence_tokens": 128,
        "early_stopping": {"patience": 3},
    },
}
_TUNED_ENCODER: Values = {
    "optimizer": {"name": "adamw", "learning_rate": 5e-5, "weight_decay": 0.01},
    "train": {
        "epochs": 4,
        "batch_size": 32,
        "sequence_tokens": 256,
        "early_stopping": {"patience": 3},
    },
}
_BY_ARCHITECTURE: dict[str, Values] = {
    "clip": {
        "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05},
        "train": {
            "epochs": 30,
            "batch_size": 64,
            "sequence_tokens": 64,
            "early_stopping": {"patience": 8},
        },
    },
    "encoder": _NEW_ENCODER,
    "vit": {
        "init": {"scheme": "default"},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05},
        "train": {"epochs": 60, "batch_size": 32, "early_stopping": {"patience": 15}},
    },
}
"""Sections in which an architecture differs from the usual one of its task."""
_DPO_RATE = {"lora": 1e-4, "full": 3e-5}
"""A preference is learned in smaller steps: every answer is in the base already."""
_BY_OPTIMIZER: dict[str, Values] = {
    "sgd": {"learning_rate": 0.02},
    "adamw": {"learning_rate": 1e-3},
    "muon": {"learning_rate": 2e-3, "momentum": 0.95},
}
"""For a rule that is not the task's own."""
_OF_ENCODERS = frozenset({"embedding", "text-classification"})
"""Tasks whose base is an encoder, mostly a pretrained one: small steps, few epochs."""
_BY_TASK: dict[str, Values] = {
    "text-generation": _NEW_LANGUAGE_MODEL,
    "text-classification": _TEXT_CLASSIFIER,
    "image-classification": _IMAGE_CLASSIFIER,
    "audio-classification": _AUDIO_CLASSIFIER,
    "classification": _MIXED,
    "regression": _MIXED,
    "speech-recognition": _SPEECH,
    "image-text-to-text": _SEEING,
    "embedding": {"model": {"architecture": "encoder"}, **_NEW_ENCODER},
}


def recipe_defaults(
    task: TrainedTask,
    *,
    has_base: bool,
    method: Literal["full", "lora"] = "lora",
    objective: Literal["likelihood", "dpo"] = "likelihood",
) -> Values:
    """Return the defaults for a task, as a fresh copy.

    Args:
        task: What is trained.
        has_base: Whether the recipe names `model.base`; then there is no architecture, and
            there are no weights to initialise.
        method: How a language model's base is tuned; ignored elsewhere.
        objective: What a language model's base learns; ignored elsewhere.
    """
    chosen = _BY_TASK[task]
    if task in GENERATING and has_base:
        chosen = _LORA if method == "lora" else _FULL
    if has_base and task in _OF_ENCODERS:
        chosen = _TUNED_ENCODER
    if has_base and task == "speech-recognition":
        chosen = _TUNED_SPEECH
    defaults = copy.deepcopy(chosen)
    if objective == "dpo" and chosen in (_LORA, _FULL):
        defaults["optimizer"]["learning_rate"] = _DPO_RATE[method]
    if has_base:
        defaults.pop("model", None)
        defaults.pop("init", None)
    return defaults


def with_recipe_defaults(values: Mapping[str, Any]) -> Values:
    """Return a recipe's values over the defaults of its task.

    Sections merge key by key; a value the user wrote always wins, null included. A recipe
    whose task is missing or unknown comes back as it is, for validation to refuse.
    """
    model, train = _section(values, "model"), _section(values, "train")
    has_base = model.get("base") is not None
    is_grown = any(model.get(name, 1) != 1 for name in ("width_factor", "depth_factor"))
    is_full = train.get("method", "full" if is_grown else "lora") == "full"
    method: Literal["full", "lora"] = "full" if is_full else "lora"
    is_dpo = train.get("objective") == "dpo"
    task = values.get("task")
    if not isinstance(task, str) or task not in _BY_TASK:
        return dict(values)
    defaults = recipe_defaults(
        cast("TrainedTask", task),
        has_base=has_base,
        method=method,
        objective="dpo" if is_dpo else "likelihood",
    )
    architecture = model.get("architecture")
    if isinstance(architecture, str):
        defaults |= copy.deepcopy(_BY_ARCHITECTURE.get(architecture, {}))
    optimizer = _section(values, "optimizer").get("name", "")
    if optimizer and optimizer != defaults["optimizer"]["name"]:
        defaults["optimizer"] = dict(_BY_OPTIMIZER.get(str(optimizer), _BY_OPTIMIZER["sgd"]))
    return merged(defaults, values)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> Values:
    """Merge two trees of sections; where both have a value, the one of `over` counts.

    `hyperparameters` belong to an architecture and are taken whole.
    """
    result: Values = dict(under)
    for key, value in over.items():
        below = result.get(key)
        is_section = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = (
            merged(below, value)
            if is_section and isinstance(below, Mapping) and key != "hyperparameters"
            else value
        )
    return result


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}
