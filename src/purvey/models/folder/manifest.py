"""Reading and writing `purvey.json`, what a model folder says of itself."""

from pathlib import Path

import msgspec

from purvey.contracts.hugging_face import INPUTS_NAME, MODULES_NAME, manifest_of
from purvey.contracts.model import MANIFEST_NAME, ModelManifest
from purvey.errors import InvalidCheckpointError
from purvey.models.folder.json_file import read_optional_object

HUGGING_FACE = ModelManifest(family="decoder", task="text-generation")
"""What a language model without a manifest says of itself."""


def read_manifest(folder: Path) -> ModelManifest:
    """Read a folder's manifest; a folder without one is a Hugging Face folder.

    Raises:
        InvalidCheckpointError: The file is there but does not fit.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        config = read_optional_object(folder / "config.json")
        inputs = read_optional_object(folder / INPUTS_NAME)
        has_modules = (folder / MODULES_NAME).is_file()
        return manifest_of(config, has_modules=has_modules, inputs=inputs)
    try:
        return msgspec.json.decode(path.read_bytes(), type=ModelManifest)
    except msgspec.MsgspecError as error:
        message = f"{MANIFEST_NAME} does not fit: {error}."
        raise InvalidCheckpointError(message, param="model") from None


def write_manifest(folder: Path, manifest: ModelManifest) -> None:
    """Write a folder's manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST_NAME).write_bytes(text + b"\n")
