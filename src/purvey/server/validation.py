"""Outside values into typed ones; refusals name the field and the nearest right name."""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError, NotFoundError, UnsupportedValueError
from purvey.server.strict_json import Json

MAX_NAME_CHARS = 128
MAX_PROBLEMS = 10_000
"""Complaints about one body that are looked at: each of them costs far more than its byte."""
FIRST_PROBLEM = Field(fail_fast=True)
"""For lists without a length of their own: the first bad item is enough to refuse them."""
Metadata = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=64)],
        Annotated[str, Field(max_length=512)],
    ],
    Field(max_length=LIMITS.metadata_pairs),
]
"""OpenAI's metadata: at most 16 short strings by name."""


def _check_integers(value: dict[str, Any]) -> dict[str, Any]:
    pending: list[Json] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise PydanticCustomError("integer_size", "an integer has more than 64 bits")
    return value


FreeForm = Annotated[dict[str, Any], AfterValidator(_check_integers)]
"""JSON of any shape, of numbers that every process and answer it goes through can hold."""


class Body(BaseModel):
    """Base of every JSON request body: nothing unknown, nothing converted silently.

    `accepts_only` lists fields that exist in OpenAI's API and are not supported here yet,
    with the values that ask for nothing; any other value is `unsupported_value`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    accepts_only: ClassVar[dict[str, tuple[object, ...]]] = {}


class Question(BaseModel):
    """Base of every query string: nothing unknown; text becomes numbers where they are due."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)


def validate(schema: type[M], value: Json) -> M:
    """Check a JSON value against a schema.

    Raises:
        InvalidValueError: Names the field at fault; an unknown one with the nearest name.
        UnsupportedValueError: A field asks for something that is not supported here.
    """
    try:
        checked = schema.model_validate(value)
    except ValidationError as error:
        if error.error_count() > MAX_PROBLEMS:
            raise InvalidValueError(f"there are {error.error_count()} mistakes.") from None
        raise _refusal(error, schema, value) from None
    if isinstance(checked, Body):
        _refuse_unsupported(checked)
    return checked


@contextmanager
def at_param(param: str) -> Iterator[None]:
    """Say which field of the request named what was not found."""
    try:
        yield
    except NotFoundError as error:
        raise type(error)(error.message, param=param, hint=error.hint) from None


def _refuse_unsupported(body: Body) -> None:
    for name in body.accepts_only.keys() & body.model_fields_set:
        accepted = body.accepts_only[name]
        if not any(_same(getattr(body, name), value) for value in accepted):
            allowed = " or ".join(repr(value) for value in accepted if value is not None)
            hint = f"Leave it out{f' or set it to {allowed}' if allowed else ''}."
            raise UnsupportedValueError(
                f"{name!r} is not supported with this value.", param=name, hint=hint
            )


def _same(given: object, accepted: object) -> bool:
    is_number = isinstance(given, int | float) and isinstance(accepted, int | float)
    if isinstance(given, bool) != isinstance(accepted, bool):
        return False
    return given == accepted and (is_number or type(given) is type(accepted))


def _refusal(error: ValidationError, schema: type[BaseModel], value: Json) -> InvalidValueError:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    located = [
        (_path(problem["loc"], value, is_missing=problem["type"] == "missing"), problem)
        for problem in problems
    ]
    first = located[0][0][:1]
    # A union complains once per member: the deepest complaint about the same field is the one
    # that came nearest to fitting.
    path, problem = max((p for p in located if p[0][:1] == first), key=lambda p: len(p[0]))
    param = ".".join(map(str, path)) or None
    if problem["type"] == "extra_forbidden":
        meant = get_close_matches(str(path[-1]), _fields_at(schema, path[:-1]), n=1)
        hint = f"Did you mean {meant[0]!r}?" if meant else ""
        return InvalidValueError(f"unknown field {param!r}.", param=param, hint=hint)
    return InvalidValueError(f"{param or 'the body'}: {problem['msg']}.", param=param)


def _path(loc: tuple[int | str, ...], value: Json, *, is_missing: bool) -> list[int | str]:
    """Keep the steps of an error's location that exist in the data; the rest tag unions."""
    path: list[int | str] = []
    for number, step in enumerate(loc):
        is_present = isinstance(value, dict) and step in value
        is_index = isinstance(value, list) and isinstance(step, int) and step < len(value)
        if is_present or is_index:
            path.append(step if isinstance(step, int) else step[:MAX_NAME_CHARS])
            value = value[step]
        elif is_missing and number == len(loc) - 1:
            path.append(step)
    return path


def _fields_at(schema: type[BaseModel], path: list[int | str]) -> list[str]:
    found = [schema]
    for step in path:
        if isinstance(step, str):
            fields = [s.model_fields[step] for s in found if step in s.model_fields]
            found = [model for field in fields for model in _models_in(field.annotation)]
    return [name for model in found for name in model.model_fields]


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
