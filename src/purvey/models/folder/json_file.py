"""Small JSON files of a model folder, read with a size limit."""

import json
from pathlib import Path
from typing import Any

from purvey.errors import InvalidCheckpointError

MAX_JSON_BYTES = 8 * 2**20


def read_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InvalidCheckpointError: Missing, too large, not JSON, or not an object; names the file.
    """
    if not path.is_file():
        raise InvalidCheckpointError(f"the model folder has no {path.name}.", param="model")
    if path.stat().st_size > max_bytes:
        message = f"{path.name} is larger than {max_bytes} bytes."
        raise InvalidCheckpointError(message, param="model")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise InvalidCheckpointError(f"{path.name} is not JSON.", param="model") from None
    if not isinstance(values, dict):
        raise InvalidCheckpointError(f"{path.name} is not a JSON object.", param="model")
    return values


def read_optional_object(path: Path) -> dict[str, Any]:
    """Read a JSON object, or return an empty one when there is no such file."""
    return read_object(path) if path.is_file() else {}


def write_object(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object, readable by people and ending in a newline."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
