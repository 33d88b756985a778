"""Deciding whether a model folder of the operator may be registered, without running any of it.

Weights are accepted as safetensors, everything else as JSON; what could carry code (pickles,
Python files, keys that name classes) is refused, whether or not anything would read it.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from purvey.contracts.hugging_face import (
    DECODERS,
    ENCODERS,
    INPUTS_NAME,
    MODULES_NAME,
    PRETRAINED,
    causal_architecture,
    is_classifier,
    manifest_of,
    num_labels,
)
from purvey.contracts.model import EYES_NAME, MANIFEST_NAME, ModelManifest
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.registry import adapters
from purvey.registry.adapters import AdapterFolder, read_adapter
from purvey.registry.safetensors_header import TensorEntry, read_header

MAX_JSON_BYTES = 64 * 2**20
MAX_FILES = 1_000
REFUSED_ENDINGS = frozenset({
    ".7z", ".bin", ".bz2", ".ckpt", ".dill", ".dll", ".gguf", ".ggml", ".gz", ".h5", ".hdf5",
    ".joblib", ".keras", ".mar", ".msgpack", ".nemo", ".npy", ".npz", ".onnx", ".onnx_data", ".pb",
    ".pdmodel", ".pdparams", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc", ".sh", ".so", ".tar",
    ".tflite", ".tgz", ".xz", ".zip",
})  # fmt: skip
_REFUSED_HEADS = re.compile(
    rb"\x80[\x02-\x05]|PK[\x03\x05]|\x89HDF|\x93NUMPY|GGUF|\x1f\x8b|\x7fELF|.{257}ustar", re.DOTALL
)
"""How pickles, zips, HDF5, arrays, archives and programs begin, whatever they are called."""
_HEAD_BYTES = 512
MAX_INNER_FILES = 10_000
_CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "trust_remote_code", "_target_"})
_CHUNK_BYTES = 2**20
_WRITING_FILES = {
    ("wav2vec2", "speech-recognition"): ("vocab.json",),
    ("whisper", "speech-recognition"): ("tokenizer.json", "generation_config.json"),
}
"""What a recogniser of the library writes with, by family and task."""
_Headers = Mapping[str, Mapping[str, TensorEntry]]
"""Tensors by name, by the name of their file."""


@dataclass(frozen=True, kw_only=True)
class CheckedFolder:
    """A folder that passed: where it is, what it holds, and the digest of its files.

    `adapter` is what an adapter's folder holds; on which base it lies is yet to be seen.
    """

    folder: Path
    manifest: ModelManifest
    digest: str
    adapter: AdapterFolder | None = None


def check_folder(folder: Path, *, model_roots: Sequence[Path]) -> CheckedFolder:
    """Check a Hugging Face folder, or one that Purvey saved, before it is registered.

    Blocking: every byte of the folder is read for the digest.

    Args:
        folder: As the administrator named it; links are resolved.
        model_roots: Folders under which it, and every file in it, must lie.

    Raises:
        InvalidValueError: It lies outside the model roots, or does not exist.
        InvalidCheckpointError: Something in it is missing, damaged or could carry code.
    """
    roots = [root.resolve() for root in model_roots]
    resolved = _resolved(folder, roots)
    try:
        return _checked(resolved, roots)
    except (OSError, RuntimeError) as error:  # no permission, gone meanwhile, a loop of links
        raise _invalid("a file of the folder cannot be read.") from error


def is_model_folder(folder: Path, *, model_roots: Sequence[Path]) -> bool:
    """Tell whether a path leads to a folder under a model root; blocking."""
    try:
        resolved = folder.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return False
    roots = [root.resolve() for root in model_roots]
    return _lies_under(resolved, roots) and resolved.is_dir()


def _checked(resolved: Path, roots: Sequence[Path]) -> CheckedFolder:
    files, inner = _plain_files(resolved, roots), inner_settings(resolved)
    for path in (*files, *inner):
        if path.suffix == ".json":
            _require_no_code_keys(path, _json(path))
    headers = {path.name: read_header(path) for path in files if _is_weights(path)}
    manifest = _manifest(resolved, headers)
    return CheckedFolder(
        folder=resolved,
        manifest=manifest,
        digest=folder_digest(files, inner),
        adapter=_adapter(resolved, headers, manifest),
    )


def folder_digest(files: Sequence[Path], inner: Sequence[Path] = ()) -> str:
    """Return the hex SHA-256 over the names and contents of files.

    Args:
        files: The folder's own.
        inner: Those of folders in it that count.
    """
    named = {path.name: path for path in files}
    named |= {f"{path.parent.name}/{path.name}": path for path in inner}
    total = hashlib.sha256()
    for name, path in sorted(named.items()):
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                content.update(chunk)
        total.update(f"{name}\0{content.hexdigest()}\n".encode())
    return total.hexdigest()


def inner_settings(folder: Path) -> list[Path]:
    """List what `sentence-transformers` keeps in folders inside: one small file for each step."""
    if not (folder / MODULES_NAME).is_file():
        return []
    return sorted(path for path in folder.glob("*/config.json") if path.is_file())


def _resolved(folder: Path, roots: Sequence[Path]) -> Path:
    hint = "Name a folder under one of PURVEY_MODEL_ROOTS (or `purvey serve --model-root`)."
    try:
        resolved = folder.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # missing, a loop of links, a NUL in the name
        resolved = None
    # One answer for "outside" and "missing": the file system is not to be explored.
    if resolved is None or not resolved.is_dir() or not _lies_under(resolved, roots):
        raise InvalidValueError(
            "source is no folder under a model root.", param="source", hint=hint
        )
    return resolved


def _lies_under(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _plain_files(folder: Path, roots: Sequence[Path]) -> list[Path]:
    """List the folder's own files; those of folders in it are not among them."""
    files = []
    _require_plain_names(folder)
    for entry in (*sorted(folder.iterdir()), *inner_settings(folder)):
        target = entry.resolve()
        if not _lies_under(target, roots):
            raise _invalid(f"{entry.name!r} is a link that leaves the model roots.")
        if target.is_dir():
            continue
        if not target.is_file():
            raise _invalid(f"{entry.name!r} is no regular file.")
        with entry.open("rb") as file:
            if not _is_weights(entry) and _REFUSED_HEADS.match(file.read(_HEAD_BYTES)):
                raise _code_carrier(entry)
        if entry.parent == folder:
            files.append(entry)
    if len(files) > MAX_FILES:
        raise _invalid(f"the folder holds more than {MAX_FILES} files.")
    return files


def _require_plain_names(folder: Path) -> None:
    """Refuse by name what could carry code, in folders inside too: an engine refuses to load it."""
    for number, path in enumerate(folder.rglob("*")):
        if number >= MAX_INNER_FILES:
            raise _invalid(f"the folder and those in it hold more than {MAX_INNER_FILES} files.")
        if path.suffix.lower() in REFUSED_ENDINGS and not path.is_dir():
            raise _code_carrier(path)


def _code_carrier(path: Path) -> InvalidCheckpointError:
    return _invalid(f"{path.name!r} could carry code or is no known format; remove it.")


def _is_weights(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _json(path: Path) -> object:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise _invalid(f"{path.name!r} is larger than {MAX_JSON_BYTES} bytes.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise _invalid(f"{path.name!r} is not JSON.") from None


def _require_no_code_keys(path: Path, value: object) -> None:
    if path.name == "tokenizer.json":
        return  # a vocabulary's keys are data: any word may be one
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            named = [k for k in item if k in _CODE_KEYS or k.endswith("_implementation_internal")]
            if named:
                raise _invalid(f"{path.name!r} has the key {named[0]!r}, which names code.")
            pending += item.values()
        elif isinstance(item, list):
            pending += item


def _manifest(folder: Path, headers: _Headers) -> ModelManifest:
    path = folder / MANIFEST_NAME
    if not path.is_file():
        if _is_adapter(folder):
            return ModelManifest(family="decoder", task="text-generation")
        config = _object(folder, "config.json")
        has_inputs = (folder / INPUTS_NAME).is_file()
        manifest = manifest_of(
            config,
            has_modules=(folder / MODULES_NAME).is_file(),
            inputs=_object(folder, INPUTS_NAME) if has_inputs else {},
        )
        _require_whole(folder, headers, manifest)
        return manifest
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=ModelManifest)
    except msgspec.MsgspecError:
        raise _invalid(f"{MANIFEST_NAME!r} is not a manifest of this version.") from None
    if manifest.family == "module":
        raise _invalid("the folder holds a user's own module; train it here instead.")
    if manifest.family == "upstream":
        raise _invalid("a folder holds no model of an upstream; register that by its name.")
    if manifest.base is not None or _is_adapter(folder):
        return manifest
    _require_whole(folder, headers, manifest)
    return manifest


def _require_whole(folder: Path, headers: _Headers, manifest: ModelManifest) -> None:
    """Make sure that there is what a family needs."""
    if manifest.family in ("decoder", "encoder", "transformers", "vision-language"):
        _require_language(folder, headers, manifest)
        if manifest.family == "vision-language" and EYES_NAME not in headers:
            raise _invalid(f"the folder holds a model that sees, without {EYES_NAME}.")
    elif not headers:
        raise _invalid("the folder holds no safetensors file.")
    elif manifest.family in (*PRETRAINED, "whisper") and not manifest.inputs:
        raise _invalid(f"config.json or {INPUTS_NAME} describes no input that is prepared here.")
    for name in _WRITING_FILES.get((manifest.family, manifest.task), ()):
        _object(folder, name)
    if (manifest.family, manifest.task) == ("clip", "embedding"):
        _object(folder, "tokenizer.json")


def _is_adapter(folder: Path) -> bool:
    return (folder / adapters.CONFIG_NAME).is_file()


def _adapter(folder: Path, headers: _Headers, manifest: ModelManifest) -> AdapterFolder | None:
    """Return what the folder holds if that is only an adapter."""
    if not _is_adapter(folder) and manifest.base is None:
        return None
    if (manifest.family, manifest.task) != ("decoder", "text-generation"):
        raise _invalid(f"{MANIFEST_NAME!r} calls an adapter a model of another kind.")
    if adapters.WEIGHTS_NAME not in headers:
        raise _invalid(f"the folder holds an adapter without {adapters.WEIGHTS_NAME}.")
    return read_adapter(_object(folder, adapters.CONFIG_NAME), headers[adapters.WEIGHTS_NAME])


def _require_language(folder: Path, headers: _Headers, manifest: ModelManifest) -> None:
    """Make sure that a model over tokens is of a family that is served, and whole."""
    config = _object(folder, "config.json")
    _require_architecture(config, manifest)
    _require_labels(config, manifest)
    _object(folder, "tokenizer.json")
    if (folder / "model.safetensors.index.json").is_file():
        _require_shards(_object(folder, "model.safetensors.index.json"), headers)
    elif "model.safetensors" not in headers:
        raise _invalid("neither model.safetensors nor its index is there.")


def _require_labels(config: dict[str, Any], manifest: ModelManifest) -> None:
    """Make sure that a head ends in what the task says."""
    found = num_labels(config) if is_classifier(config) else 0
    if manifest.task == "rerank" and found != 1:
        raise _invalid(f"config.json has {found} labels; a model that ranks ends in one.")
    if manifest.task == "text-classification" and found != (len(manifest.labels) or -1):
        raise _invalid(f"config.json has {found} labels, the model {len(manifest.labels)}.")


def _require_architecture(config: dict[str, Any], manifest: ModelManifest) -> None:
    model_type = str(config.get("model_type"))[:100]
    if manifest.family == "transformers":
        if causal_architecture(config) is None or model_type in (*DECODERS, *ENCODERS):
            raise _invalid(f"{MANIFEST_NAME!r} leaves to transformers what is not its own.")
        if config.get("quantization_config") is not None:
            raise _invalid("config.json has a quantization_config; weights must be plain numbers.")
        return
    served = ENCODERS if manifest.family == "encoder" else DECODERS
    if model_type not in served:
        raise _invalid(
            f"config.json has model_type {model_type!r}; served are "
            f"{', '.join((*DECODERS, *ENCODERS))}, and through transformers what names one "
            "architecture '...ForCausalLM'."
        )


def _require_shards(index: dict[str, Any], headers: _Headers) -> None:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _invalid("model.safetensors.index.json has no weight_map.")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or shard not in headers:
            raise _invalid(f"the shard {str(shard)[:200]!r} is missing.")
        if tensor not in headers[shard]:
            raise _invalid(f"the shard {shard!r} lacks the tensor {tensor[:200]!r}.")


def _object(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise _invalid(f"{name} is missing.")
    value = _json(path)
    if not isinstance(value, dict):
        raise _invalid(f"{name} is no JSON object.")
    return value


def _invalid(message: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(message, param="source")
