"""How light the pictures of the training split are, for networks that need them centred.

Shape letters, this file only:
    C = channels   H = rows   W = columns
"""

from collections.abc import Mapping, Sequence

import msgspec
import torch

from purvey.contracts.model import ImageSpec, InputSpec
from purvey.data.loader import Rows
from purvey.models.images import ImageReader
from purvey.parse.parser import DecoderHere

_MOST_PICTURES = 256
"""Looked at, evenly over the split: their mean misses that of all by a sixteenth of a deviation."""
_LEAST_DEVIATION = 0.01
_DECODER = DecoderHere()


def with_shades(
    inputs: Mapping[str, InputSpec], training: Rows, columns: Mapping[str, str]
) -> dict[str, InputSpec]:
    """Return the inputs, every picture with the mean and the deviation of its channels.

    On a light ground, pictures as they are differ little from one another beside what all have in
    common, and what a picture says is learned late (measured on shapes: not in two epochs).

    Args:
        inputs: As declared, by name.
        training: The training split, of at least one row.
        columns: Column by the input's name.

    Raises:
        InvalidValueError: A picture cannot be decoded.
    """
    return {
        name: shaded(spec, training.media(columns[name])) if isinstance(spec, ImageSpec) else spec
        for name, spec in inputs.items()
    }


def shaded(spec: ImageSpec, pictures: Sequence[bytes]) -> ImageSpec:
    """Return a picture's input with the mean and the deviation of its channels in these."""
    looked_at = pictures[:: -(-len(pictures) // _MOST_PICTURES)]
    sum_C, squares_C = torch.zeros(2, spec.channels, dtype=torch.float64)
    for data in looked_at:
        x_CHW = ImageReader(_DECODER).tensor(data, spec, param="recipe.dataset").double()
        sum_C += x_CHW.mean((1, 2))
        squares_C += x_CHW.square().mean((1, 2))
    mean_C = sum_C / len(looked_at)
    std_C = (squares_C / len(looked_at) - mean_C.square()).clamp_min(0).sqrt()
    return msgspec.structs.replace(
        spec, mean=tuple(mean_C.tolist()), std=tuple(std_C.clamp_min(_LEAST_DEVIATION).tolist())
    )
