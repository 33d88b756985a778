"""Open any model folder by what its manifest says it is."""

from collections.abc import Sequence
from pathlib import Path

from purvey.contracts.model import ModelSource
from purvey.models.folder.manifest import read_manifest
from purvey.models.language import LanguageModel, load_language_model


def open_model(source: ModelSource, *, module_roots: Sequence[str] = ()) -> LanguageModel:
    """Open a registered model for computing; float32, on the CPU, in evaluation mode.

    Args:
        source: Where it lies; an adapter also names its base folder.
        module_roots: Not used to load: a folder brings its own copy of a user's module.

    Raises:
        InvalidCheckpointError: The folder is not usable; names what is wrong.
    """
    folder = Path(source.folder)
    read_manifest(folder)
    return load_language_model(folder)
