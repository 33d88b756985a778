"""How a folder turns texts into vectors: `sentence-transformers`' files, or our manifest.

`modules.json` lists steps; understood are the transformer, pooling and normalisation. Vectors have
length 1 whether or not the last is listed. What would change a vector and is not computed here is
refused by name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purvey.contracts.hugging_face import MODULES_NAME
from purvey.contracts.model import ModelManifest
from purvey.errors import InvalidCheckpointError
from purvey.models.encoder.pooling import POOLINGS, Pooling
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.json_file import MAX_JSON_BYTES, read_object, read_optional_object

_POOLING_FIELDS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_NAMED: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_OTHER_MODES = (
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
)
_KNOWN_STEPS = ("Transformer", "Pooling", "Normalize")
_HYPERPARAMETERS = ("pooling", "max_tokens", "prompt", "matryoshka")


@dataclass(frozen=True, kw_only=True)
class EmbeddingSetup:
    """From states to a vector.

    Args:
        pooling: What is taken of the states.
        max_tokens: Longest text where that is less than the model's positions.
        prompt: Written before every text.
        sizes: Lengths that a vector may be cut to; None forbids cutting, empty allows every one.
    """

    pooling: Pooling
    max_tokens: int | None = None
    prompt: str = ""
    sizes: tuple[int, ...] | None = None


def read_setup(
    folder: Path, manifest: ModelManifest, config: Mapping[str, Any], *, default: Pooling
) -> EmbeddingSetup:
    """Read how a folder turns states into vectors.

    Args:
        folder: The model's folder.
        manifest: Its hyperparameters win: `pooling`, `max_tokens`, `prompt`, `matryoshka`.
        config: The content of `config.json`, for `is_matryoshka` and `matryoshka_dimensions`.
        default: Pooling of a folder that says nothing.

    Raises:
        InvalidCheckpointError: A file asks for a step or a pooling that is not implemented.
    """
    own = Fields(manifest.hyperparameters, at="hyperparameters.")
    own.refuse_unknown(_HYPERPARAMETERS)
    sizes = _sizes(Fields(config))
    if own.flag("matryoshka", default=False):
        sizes = ()
    found = _from_modules(folder) if (folder / MODULES_NAME).is_file() else None
    prompt = own.values.get("prompt", found.prompt if found else "")
    if not isinstance(prompt, str):
        raise own.refusal("prompt", "must be text")
    return EmbeddingSetup(
        pooling=own.choice("pooling", POOLINGS, default=found.pooling if found else default),
        max_tokens=_optional_count(own, "max_tokens") or (found.max_tokens if found else None),
        prompt=prompt,
        sizes=sizes,
    )


def _sizes(fields: Fields) -> tuple[int, ...] | None:
    listed = fields.values.get("matryoshka_dimensions")
    if listed is None:
        return () if fields.flag("is_matryoshka", default=False) else None
    if not isinstance(listed, list) or not all(type(n) is int and n > 0 for n in listed):
        raise fields.refusal("matryoshka_dimensions", "must be a list of whole numbers above 0")
    return tuple(listed)


def _from_modules(folder: Path) -> EmbeddingSetup:
    steps = _steps(folder / MODULES_NAME)
    places = {kind: folder / path for kind, path in steps}
    if [kind for kind, _ in steps] not in (list(_KNOWN_STEPS), list(_KNOWN_STEPS[:2])):
        raise _refusal(MODULES_NAME, "lists other steps than Transformer, Pooling, Normalize")
    if steps[0][1]:
        raise _refusal(MODULES_NAME, "puts the transformer into a folder of its own")
    text = Fields(
        read_optional_object(folder / "sentence_bert_config.json"),
        file="sentence_bert_config.json",
    )
    if text.flag("do_lower_case", default=False):
        raise text.refusal("do_lower_case", "is not implemented; let the tokenizer do it")
    pooling = Fields(read_object(places["Pooling"] / "config.json"), file="Pooling/config.json")
    return EmbeddingSetup(
        pooling=_pooling(pooling),
        max_tokens=_optional_count(text, "max_seq_length"),
        prompt=_prompt(folder, pooling),
    )


def _steps(path: Path) -> list[tuple[str, str]]:
    """Return the kind and the folder of each step."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise _refusal(path.name, "is too large")
    try:
        listed = json.loads(path.read_bytes())
        steps = [(step["type"], step["path"]) for step in listed]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _refusal(path.name, "is no list of steps with type and path") from None
    for kind, place in steps:
        is_text = isinstance(kind, str) and isinstance(place, str)
        if not is_text or place == ".." or Path(place).name != place:
            raise _refusal(path.name, "names a step that is no folder in this one")
    return [(kind.rpartition(".")[2], place) for kind, place in steps]


def _pooling(fields: Fields) -> Pooling:
    named = fields.values.get("pooling_mode")
    if named is not None:
        return _NAMED[fields.choice("pooling_mode", tuple(_NAMED))]
    for name in _OTHER_MODES:
        if fields.flag(name, default=False):
            raise fields.refusal(name, "is not implemented")
    chosen = [mode for name, mode in _POOLING_FIELDS.items() if fields.flag(name, default=False)]
    if len(chosen) != 1:
        raise fields.refusal("pooling_mode", f"must be one of several, not {len(chosen)} of them")
    return chosen[0]


def _prompt(folder: Path, pooling: Fields) -> str:
    fields = Fields(
        read_optional_object(folder / "config_sentence_transformers.json"),
        file="config_sentence_transformers.json",
    )
    name = fields.values.get("default_prompt_name")
    if name is None:
        return ""
    prompt = fields.section("prompts").get(name) if isinstance(name, str) else None
    if not isinstance(prompt, str):
        raise fields.refusal("default_prompt_name", "names no prompt")
    if not pooling.flag("include_prompt", default=True):
        raise pooling.refusal("include_prompt", "must be true: leaving it out is not implemented")
    return prompt


def _optional_count(fields: Fields, name: str) -> int | None:
    return None if fields.values.get(name) is None else fields.count(name)


def _refusal(file: str, complaint: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(f"{file} {complaint}.", param="model")
