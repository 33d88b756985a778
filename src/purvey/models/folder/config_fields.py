"""Reading an untrusted JSON object field by field, with an error that names the field."""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from purvey.errors import InvalidCheckpointError, InvalidValueError

S = TypeVar("S", bound=str)
_LARGEST_COUNT = 2**24
_CODE_FIELDS = ("auto_map", "custom_pipelines", "trust_remote_code")
_CODE_ENDINGS = ("_implementation", "_implementation_internal", "_class_path")


class Fields:
    """A JSON object whose fields are read as a kind, or refused.

    Args:
        values: The object.
        error: Class of the refusals.
        at: Prefix of the field in messages.
        file: The file that messages name when `at` is empty.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        error: type[InvalidCheckpointError | InvalidValueError] = InvalidCheckpointError,
        at: str = "",
        file: str = "config.json",
    ) -> None:
        self.values = values
        self._error, self._at, self._file = error, at, file

    def refusal(self, name: str, complaint: str) -> InvalidCheckpointError | InvalidValueError:
        """Build the error that says what is wrong with one field."""
        where = f"{self._at}{name}"
        prefix = "" if self._at else f"{self._file}: "
        return self._error(f"{prefix}{where} {complaint}.", param=where)

    def refuse_code(self) -> None:
        """Refuse fields that name code or a class to run."""
        for name, value in self.values.items():
            if value and (name in _CODE_FIELDS or name.endswith(_CODE_ENDINGS)):
                raise self.refusal(name, "names code, which a model folder may not")

    def refuse_unknown(self, known: Sequence[str]) -> None:
        """Refuse the first field that is not known, naming the nearest one that is."""
        for name in self.values:
            if name not in known:
                nearest = get_close_matches(name, known, n=1)
                meant = f"; did you mean {nearest[0]!r}?" if nearest else ""
                raise self.refusal(name, f"is unknown{meant}")

    def count(self, name: str, *, default: int | None = None, at_most: int = _LARGEST_COUNT) -> int:
        """Return a whole number from 1 to `at_most`, 2^24 unless told."""
        value = self._given(name, default)
        if type(value) is not int or not 1 <= value <= at_most:
            raise self.refusal(name, f"must be a whole number from 1 to {at_most}")
        return value

    def fraction(self, name: str, *, default: float | None = None) -> float:
        """Return a number from 0 up to 1: a share or a probability that is never whole."""
        value = self._given(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value < 1:
            raise self.refusal(name, "must be a number from 0 up to 1")
        return float(value)

    def number(self, name: str, *, default: float | None = None) -> float:
        """Return a finite number above zero."""
        value = self._given(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not _is_finite(value) or value <= 0:
            raise self.refusal(name, "must be a finite number above zero")
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self._given(name, default)
        if not isinstance(value, bool):
            raise self.refusal(name, "must be true or false")
        return value

    def choice(self, name: str, options: Sequence[S], *, default: S | None = None) -> S:
        """Return one of the options."""
        value = self._given(name, default)
        for option in options:
            if value == option:
                return option
        raise self.refusal(name, f"is {value!r}; supported: {', '.join(options)}")

    def ids(self, name: str) -> tuple[int, ...]:
        """Return token ids: none, one, or a list of them."""
        value = self.values.get(name)
        listed = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in listed):
            raise self.refusal(name, "must be a token id or a list of them")
        return tuple(listed)

    def section(self, name: str) -> Mapping[str, Any]:
        """Return a nested object; empty when absent or null."""
        value = self.values.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.refusal(name, "must be an object")
        return value

    def _given(self, name: str, default: object) -> Any:  # noqa: ANN401 (JSON, narrowed by callers)
        value = self.values.get(name)
        if value is None:
            value = default
        if value is None:
            raise self.refusal(name, "is missing")
        return value


def _is_finite(number: float) -> bool:
    """Tell whether a float holds it: JSON may spell an integer of any length."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
