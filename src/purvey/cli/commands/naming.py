"""Inputs by name, as `purvey run --input` takes them."""

import json
from collections.abc import Sequence
from pathlib import Path

from purvey.errors import InvalidFileError, InvalidValueError


def named_inputs(pairs: Sequence[str]) -> dict[str, object]:
    """Read `name=text`, `name:=number` and `name=@file` into one mixture of the API.

    Raises:
        InvalidValueError: A pair of another form, or a name that is given twice.
        InvalidFileError: There is no such file.
    """
    inputs: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.rstrip(":"):
            raise InvalidValueError(f"{pair!r} is not of the form name=value.", param="input")
        is_json = name.endswith(":")
        name = name.removesuffix(":")
        if name in inputs:
            raise InvalidValueError(f"the input {name!r} is given twice.", param="input")
        inputs[name] = _json(name, value) if is_json else _plain(value)
    return inputs


def _json(name: str, value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        message = f"{value!r} is no number; write {name}=VALUE for a text."
        raise InvalidValueError(message, param="input") from None


def _plain(value: str) -> object:
    from purvey.client.answers import AUDIO_TYPES, audio_input, image_input

    if not value.startswith("@"):
        return value
    path = Path(value[1:])
    if not path.is_file():
        raise InvalidFileError(f"no file at {str(path)!r}.", param="input")
    return audio_input(path) if path.suffix.lower() in AUDIO_TYPES else image_input(path)
