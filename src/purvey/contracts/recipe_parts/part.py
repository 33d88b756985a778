"""What every section of a recipe is: frozen, nothing unknown, nothing converted silently."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Part(BaseModel):
    """Base of every part of a recipe: frozen, nothing unknown, nothing converted silently."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


def refuse_without_effect(part: Part, names: Iterable[str], *, why: str) -> None:
    """Refuse a value other than the default where nothing reads it.

    Raises:
        ValueError: Names the first such field.
    """
    for name in names:
        if getattr(part, name) != type(part).model_fields[name].default:
            msg = f"{name} has no effect with {why}: leave it out"
            raise ValueError(msg)
