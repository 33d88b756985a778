"""Declared inputs of any kind as tensors.

Shape letters, this file only:
    C = channels   H = rows   W = columns   T = bytes of a text   M = mel bands   F = frames
"""

import math

import torch
from torch import Tensor

from purvey.contracts.engine import (
    AudioInput,
    ImageInput,
    NamedInputs,
    NumberInput,
    PlainInput,
    TextInput,
)
from purvey.contracts.model import (
    AudioSpec,
    CategorySpec,
    ImageSpec,
    InputSpec,
    NumberSpec,
    TextSpec,
)
from purvey.errors import InvalidValueError
from purvey.models.inputs.media import MediaReader

_WORDS: dict[type[InputSpec], str] = {
    ImageSpec: "an image",
    TextSpec: "text",
    NumberSpec: "a number",
    CategorySpec: "text",
    AudioSpec: "a recording",
}


def check_names(inputs: NamedInputs, declared: dict[str, InputSpec]) -> None:
    """Refuse inputs that are not exactly the declared ones.

    Raises:
        InvalidValueError: Names the one that is unknown or missing.
    """
    for name in inputs:
        if name not in declared:
            known = ", ".join(declared)
            raise InvalidValueError(f"unknown input {name!r}; expected: {known}.", param=name)
    for name in declared:
        if name not in inputs:
            raise InvalidValueError(f"the input {name!r} is missing.", param=name)


def tensor_of(value: PlainInput, spec: InputSpec, name: str, media: MediaReader) -> Tensor:
    """Turn one input into a tensor of the shape that its declaration fixes.

    Images become float32 `x_CHW`, texts int64 `x_T` (bytes plus one, padded with 0 to
    `max_bytes`), numbers float32 scalars, categories int64 scalars, recordings float32 `x_MF`, or
    `x_T` where the declaration has no mel bands.

    Raises:
        InvalidValueError: Another kind than declared, or broken.
    """
    match spec, value:
        case ImageSpec(), ImageInput(data=data):
            return media.images.tensor(data, spec, param=name)
        case TextSpec(max_bytes=max_bytes), TextInput(text=text):
            codes = [byte + 1 for byte in text.encode("utf-8", "replace")[:max_bytes]]
            return torch.tensor(codes + [0] * (max_bytes - len(codes)), dtype=torch.int64)
        case NumberSpec(mean=mean, std=std), NumberInput(value=number):
            if not math.isfinite(number):
                raise InvalidValueError(f"the input {name!r} is not finite.", param=name)
            return torch.tensor((number - mean) / std, dtype=torch.float32)
        case CategorySpec(values=values), TextInput(text=text):
            place = values.index(text) + 1 if text in values else 0
            return torch.tensor(place, dtype=torch.int64)
        case AudioSpec(), AudioInput(data=data):
            return media.sounds.tensor(data, spec, param=name)
        case _:
            raise InvalidValueError(f"the input {name!r} must be {_WORDS[type(spec)]}.", param=name)
