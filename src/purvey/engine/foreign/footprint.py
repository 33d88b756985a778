"""What a model that `transformers` computes takes, counted before anything is read."""

from math import prod
from pathlib import Path

from purvey.contracts.engine import LoadModel
from purvey.engine.batch import TILE_TOKENS
from purvey.engine.linears.footprint import Footprint
from purvey.errors import UnsupportedValueError
from purvey.models.folder.safetensors_file import read_header
from purvey.models.weights import weight_files

_BYTES_PER_FLOAT = 4
_TILE_COPIES = 8
"""Times that the largest matrix product of a tile is held at once, at most."""


def expected(load: LoadModel) -> Footprint:
    """Count from the headers of the files: weights in float32, and one tile of rows.

    Raises:
        UnsupportedValueError: Another precision than float32 is asked for.
        InvalidCheckpointError: The folder is not usable.
    """
    if load.precision not in ("auto", "fp32"):
        raise UnsupportedValueError(
            f"the model {load.source.name!r} is computed by transformers, in float32 only; the "
            f"precision asked for is {load.precision!r}.",
            param="precision",
            hint="Choose 'auto' or 'fp32' in the profile, or in the server's setting.",
        )
    headers = [read_header(file) for file in weight_files(Path(load.source.folder))]
    sizes = [prod(entry.shape) for header in headers for entry in header.values()]
    widths = [max(entry.shape, default=0) for header in headers for entry in header.values()]
    return Footprint(
        chosen="fp32",
        num_weights=sum(sizes),
        weights_bytes=_BYTES_PER_FLOAT * sum(sizes),
        kv_cache_bytes=load.kv_cache_bytes,
        workspace_bytes=workspace_bytes(max(widths, default=0)),
        loading_bytes=_BYTES_PER_FLOAT * max(sizes, default=0),
    )


def workspace_bytes(widest: int) -> int:
    """Count what a step holds at once: sequences come one by one, and tiles too.

    Args:
        widest: Longest row that a layer puts out; usually the vocabulary.
    """
    return _BYTES_PER_FLOAT * _TILE_COPIES * TILE_TOKENS * widest
