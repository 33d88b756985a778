"""The tensors that a model folder's weights hold, read from the headers of its files alone."""

import json
from pathlib import Path

from purvey.errors import InvalidCheckpointError
from purvey.registry.safetensors_header import TensorEntry, read_header

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


def read_tensors(folder: Path) -> dict[str, TensorEntry]:
    """Read the headers of a folder's weights. Blocking.

    Where there is an index, the files that it names count, else `model.safetensors`, else all.

    Raises:
        InvalidCheckpointError: A file of weights is not one.
        OSError: A file cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if (folder / _INDEX).is_file():
        files = [folder / name for name in _shards(folder / _INDEX)]
    elif (folder / _SINGLE).is_file():
        files = [folder / _SINGLE]
    return {name: entry for file in files for name, entry in read_header(file).items()}


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidCheckpointError(f"{index.name!r} is not an index of weights.") from None
