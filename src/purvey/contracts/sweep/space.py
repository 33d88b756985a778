"""What a sweep searches: recipe fields by dotted name, each with a range or a list of values."""

import copy
import json
import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Any

from pydantic import Field, model_validator

from purvey.contracts.limits import LIMITS
from purvey.contracts.recipe_parts.part import Part
from purvey.errors import InvalidValueError

Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
Real = Annotated[float, Field(allow_inf_nan=False)]
FieldName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$", max_length=200)
]
_FITS = 1e-9


class Range(Part):
    """All numbers from `low` to `high`, both included; whole ones where all that is given is whole.

    `log` draws evenly from the logarithm: for rates and sizes that span orders of magnitude.
    """

    low: Whole | Real
    """Smallest value."""
    high: Whole | Real
    """Largest value."""
    log: bool = False
    """Whether each factor counts alike, rather than each difference; `low` is then above 0."""
    step: Whole | Real | None = None
    """Distance between values; null takes every number, or every whole one."""

    @model_validator(mode="after")
    def _spans(self) -> "Range":
        if self.low >= self.high:
            msg = "low must be less than high"
            raise ValueError(msg)
        if self.log and (self.low <= 0 or self.step is not None):
            msg = "log needs low above 0, and takes no step"
            raise ValueError(msg)
        if self.step is not None and not _divides(self.step, self.high - self.low):
            msg = "step must be above 0, and go into high - low without a rest"
            raise ValueError(msg)
        return self

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return all(isinstance(n, int) for n in (self.low, self.high, self.step or 0))

    @property
    def num_points(self) -> float:
        """How many values there are; infinite without a step between them."""
        if self.is_whole or self.step is not None:
            return round((self.high - self.low) / (self.step or 1)) + 1
        return math.inf

    @property
    def samples(self) -> list[Any]:
        """Values to check a recipe with: the ends."""
        return [self.low, self.high]


class Choices(Part):
    """One of these values, in no order; any JSON that the field takes."""

    values: Annotated[list[Any], Field(min_length=1, max_length=LIMITS.sweep_values)]
    """What is tried."""

    @model_validator(mode="after")
    def _differ(self) -> "Choices":
        if len({json.dumps(value, sort_keys=True) for value in self.values}) < len(self.values):
            msg = "a value is given twice"
            raise ValueError(msg)
        if not _fits_64_bits(self.values):
            msg = "an integer has more than 64 bits"
            raise ValueError(msg)
        return self

    @property
    def num_points(self) -> float:
        """How many values there are."""
        return len(self.values)

    @property
    def samples(self) -> list[Any]:
        """Values to check a recipe with: all."""
        return self.values


Dimension = Range | Choices
Space = Annotated[dict[FieldName, Dimension], Field(min_length=1, max_length=LIMITS.sweep_fields)]
_CORNERS = 256


def num_points(space: Mapping[str, Dimension]) -> float:
    """Return how many combinations there are; infinite where one field has no end of values."""
    return math.prod(dimension.num_points for dimension in space.values())


def samples(space: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """Yield combinations to check recipes with: all of the ends and values where they are few.

    Where they are many, each value is tried once, the other fields at their first.
    """
    names = list(space)
    tried = [space[name].samples for name in names]
    if math.prod(map(len, tried)) <= _CORNERS:
        for corner in product(*tried):
            yield dict(zip(names, corner, strict=True))
        return
    first = {name: values[0] for name, values in zip(names, tried, strict=True)}
    for name, values in zip(names, tried, strict=True):
        yield from (first | {name: value} for value in values)


def placed(recipe: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values with each parameter at its place.

    Raises:
        InvalidValueError: A parameter lies within something that has no parts.
    """
    values = copy.deepcopy(dict(recipe))
    for name, value in parameters.items():
        *sections, leaf = name.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise InvalidValueError(f"{section!r} of {name!r} has no parts.", param="space")
        inner[leaf] = value
    return values


def _fits_64_bits(value: object) -> bool:
    """Tell whether every integer in a JSON value can be held by every process it goes through."""
    if isinstance(value, dict):
        return all(map(_fits_64_bits, value.values()))
    if isinstance(value, list):
        return all(map(_fits_64_bits, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _divides(step: float, whole: float) -> bool:
    return step > 0 and abs(round(whole / step) * step - whole) <= _FITS * abs(whole)
