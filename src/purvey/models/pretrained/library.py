"""A folder opened by a class of `transformers`.

No code of a folder is ever run: the class is one of the installed library, weights are safetensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from purvey.errors import InvalidCheckpointError
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.json_file import read_object
from purvey.models.folder.safetensors_file import read_header
from purvey.models.weights import CONFIG_NAME, refuse_unsafe_files, weight_files

_REFUSALS = (ValueError, OSError, RuntimeError, LookupError, TypeError, AttributeError, ImportError)
"""What the library raises over a folder that does not fit; it has no error of its own."""
_UNCHANGED: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class LibraryNetwork:
    """A network of the library, and how the folder's tensors fit it.

    Args:
        network: Float32, on the CPU, in evaluation mode.
        missing: Names of its tensors that the folder lacks, or has in another shape.
        unused: Names of the folder's tensors that it has no place for.
    """

    network: Any  # transformers is untyped here
    missing: frozenset[str]
    unused: tuple[str, ...]


def check_folder_of_library(folder: Path) -> None:
    """Make sure that a folder holds weights as plain numbers, and names no code.

    Raises:
        InvalidCheckpointError: Names the file or the field.
    """
    refuse_unsafe_files(folder)
    fields = Fields(read_object(folder / CONFIG_NAME))
    fields.refuse_code()
    if fields.values.get("quantization_config") is not None:
        raise fields.refusal("quantization_config", "is not implemented; export full weights")


def open_network(
    folder: Path,
    name: str,
    *,
    family: str,
    changes: Mapping[str, Any] = _UNCHANGED,
    attention: str = "sdpa",
) -> LibraryNetwork:
    """Open a folder by a class of the library; tensors that it lacks are drawn by torch.

    Args:
        folder: A model's, checked.
        name: Of the class.
        family: For messages.
        changes: Fields of the configuration that are set anew.
        attention: How the library computes it.

    Raises:
        InvalidCheckpointError: The library is not there, or does not take the folder.
    """
    for file in weight_files(folder):
        read_header(file)  # strictly, before a library maps it
    try:
        import transformers
    except ImportError:
        raise InvalidCheckpointError(
            f"a network of family {family!r} needs the package 'transformers'.",
            param="model",
            hint="Install purvey[engine].",
        ) from None
    network_class = getattr(transformers, name)
    try:
        config = network_class.config_class.from_pretrained(folder, local_files_only=True)
        for field, value in changes.items():
            setattr(config, field, value)
        network, told = network_class.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except _REFUSALS as error:
        raise InvalidCheckpointError(
            f"transformers cannot load this {family} ({type(error).__name__}).", param="model"
        ) from error
    missing = (*told["missing_keys"], *told["mismatched_keys"])
    return LibraryNetwork(
        network=network.eval(),
        missing=frozenset(map(_name, missing)),
        unused=tuple(sorted(map(str, told["unexpected_keys"]))),
    )


def _name(key: object) -> str:
    """Return the name of a tensor that the library reports, by itself or with its shapes."""
    return str(key[0] if isinstance(key, tuple) else key)
