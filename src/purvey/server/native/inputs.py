"""Inputs of a classifier as requests give them, turned into what its engine takes."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from purvey.contracts.engine import (
    AudioInput,
    EngineClient,
    ImageInput,
    NamedInputs,
    NumberInput,
    PlainInput,
    TextInput,
)
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import (
    AudioSpec,
    CategorySpec,
    ImageSpec,
    InputSpec,
    NumberSpec,
    TextSpec,
)
from purvey.errors import InvalidValueError
from purvey.server.media import picture, recording
from purvey.server.policy import Call

FORMS = frozenset({"text", "image", "audio"})
BATCH_BYTES = 32 * 2**20
"""Media that are read before the first of them are classified: files may hold far more."""
Given = str | int | float | dict[str, Any]


async def batches(
    call: Call, engine: EngineClient, given: Sequence[Given], *, params: Sequence[str]
) -> AsyncIterator[list[NamedInputs]]:
    """Yield the inputs in order, read as far as memory and one message to an engine allow.

    Args:
        call: Who asks.
        engine: What classifies them.
        given: At least one input.
        params: The field of each, for errors.

    Raises:
        InvalidValueError: As `named_inputs` does; other errors as `picture` does.
    """
    batch: list[NamedInputs] = []
    num_bytes = 0
    for value, param in zip(given, params, strict=True):
        named = await named_inputs(call, engine, value, param=param)
        num_bytes += sum(
            len(v.data) for v in named.values() if isinstance(v, (ImageInput, AudioInput))
        )
        batch.append(named)
        if num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


async def named_inputs(
    call: Call, engine: EngineClient, given: Given, *, param: str
) -> NamedInputs:
    """Turn one given input into inputs by the names that the model declares.

    Raises:
        InvalidValueError: A form or a name that the model does not take.
    """
    specs = engine.model.inputs
    if isinstance(given, dict) and _is_by_name(given, specs):
        if set(given) != set(specs):
            raise _other_names(specs, param)
        return {
            name: await _plain(call, given[name], spec, param=f"{param}.{name}")
            for name, spec in specs.items()
        }
    if len(specs) != 1:
        raise _other_names(specs, param)
    ((name, spec),) = specs.items()
    return {name: await _plain(call, given, spec, param=param)}


def _is_by_name(given: dict[str, Any], specs: Mapping[str, InputSpec]) -> bool:
    """Tell inputs by name from one `{"text"}` or `{"image"}`, for names of such spelling too."""
    if not FORMS.issuperset(given):
        return True
    is_one_form = len(specs) == 1 and not any(isinstance(v, dict) for v in given.values())
    return set(given) == set(specs) and not is_one_form


def _other_names(specs: Mapping[str, InputSpec], param: str) -> InvalidValueError:
    return InvalidValueError(f"the model takes the inputs {', '.join(specs)}.", param=param)


async def _plain(call: Call, given: object, spec: InputSpec, *, param: str) -> PlainInput:
    match given, spec:
        case str(image), ImageSpec():
            return ImageInput(data=await picture(call, image, param=param))
        case {"image": str(image), **rest}, ImageSpec() if not rest:
            return ImageInput(data=await picture(call, image, param=f"{param}.image"))
        case str(audio), AudioSpec():
            return AudioInput(data=await recording(call, audio, param=param))
        case {"audio": str(audio), **rest}, AudioSpec() if not rest:
            return AudioInput(data=await recording(call, audio, param=f"{param}.audio"))
        case str(text), TextSpec():
            return _text(text, param)
        case {"text": str(text), **rest}, TextSpec() if not rest:
            return _text(text, param)
        case int() | float() as number, NumberSpec() if _is_finite(number):
            return NumberInput(value=float(number))
        case str() | int() | float() as given, CategorySpec() if _is_category(given):
            return _text(_category(given), param)
        case _:
            raise InvalidValueError(f"the model takes {_taken(spec)} here.", param=param)


def _is_category(given: str | float) -> bool:
    return not isinstance(given, float) or given.is_integer()


def _category(given: str | float) -> str:
    """Return a category as a dataset spells it."""
    if isinstance(given, bool):
        return str(given).lower()
    return str(int(given) if isinstance(given, float) else given).strip()


def _is_finite(number: float) -> bool:
    """Tell numbers from true, false, and integers that no float holds."""
    try:
        return not isinstance(number, bool) and math.isfinite(number)
    except OverflowError:
        return False


def _taken(spec: InputSpec) -> str:
    match spec:
        case ImageSpec():
            return "{'image'}, a base64 data URL, the id of a file or an https:// address,"
        case AudioSpec():
            return "{'audio'}, a base64 data URL, the id of a file or an https:// address,"
        case TextSpec():
            return "a text or {'text'}"
        case NumberSpec():
            return "a number"
        case CategorySpec():
            return "a category, as text or a whole number,"


def _text(text: str, param: str) -> TextInput:
    if len(text) > LIMITS.prompt_chars:
        raise InvalidValueError(
            f"the text is longer than {LIMITS.prompt_chars} characters.", param=param
        )
    return TextInput(text=text)
