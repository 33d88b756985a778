"""JSON without surprises: what two parsers could read differently is refused.

Refused: duplicate keys, NaN and infinities (overflowing numbers included), numbers of too
many digits, nesting beyond the limit, too many values, lone surrogates, anything but UTF-8.
"""

import json
import math
import re
from itertools import islice
from typing import Any

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidJSONError

Json = Any
"""A JSON value as Python has it; its shape is checked by the schema that receives it."""


def loads(body: bytes) -> Json:
    """Parse a request body.

    Raises:
        InvalidJSONError: The body is not JSON, or JSON of the kind refused above.
    """
    _check_size(body)
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidJSONError("the body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise InvalidJSONError(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise _too_deep() from None
    if body.count(b"[") + body.count(b"{") > LIMITS.json_depth:
        _check_depth(value)
    # A raw surrogate is not UTF-8, so one can only come from an escape.
    if b"\\ud" in body or b"\\uD" in body:
        _check_scalars(value)
    return value


def _check_size(body: bytes) -> None:
    """Refuse what would take many times its bytes, and seconds, once it is parsed."""
    most = LIMITS.json_values
    if body.count(b",") + body.count(b"[") + body.count(b"{") <= most:
        return
    found = islice(_UP_TO_VALUE.finditer(body), most + 1)
    if sum(1 for match in found if match.lastindex) > most:
        raise InvalidJSONError(f"the body has more than {most} values.")


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # add() is the second half of the test
        raise InvalidJSONError(f"the key {twice[:64]!r} occurs twice.", param=_printable(twice))
    return found


def _integer(digits: str) -> int:
    if len(digits) > LIMITS.json_number_digits:
        raise InvalidJSONError(f"a number has more than {LIMITS.json_number_digits} digits.")
    return int(digits)


def _float(digits: str) -> float:
    if len(digits) > LIMITS.json_number_digits:
        raise InvalidJSONError(f"a number has more than {LIMITS.json_number_digits} digits.")
    value = float(digits)
    if not math.isfinite(value):
        raise InvalidJSONError("a number is too large for a 64-bit float.")
    return value


def _constant(name: str) -> Json:
    raise InvalidJSONError(f"{name} is not JSON.")


def _check_depth(value: Json) -> None:
    level = [value]
    for _ in range(LIMITS.json_depth):
        level = (
            [
                child
                for parent in level
                for child in (parent.values() if isinstance(parent, dict) else parent)
                if isinstance(child, dict | list)
            ]
            if isinstance(level[0], dict | list)
            else []
        )
        if not level:
            return
    raise _too_deep()


def _too_deep() -> InvalidJSONError:
    return InvalidJSONError(f"the body is nested deeper than {LIMITS.json_depth} levels.")


def _check_scalars(value: Json) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, str) and not _is_scalar_text(item):
            raise InvalidJSONError("a string holds half of a surrogate pair.")


def _is_scalar_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str | None:
    return text[:64] if _is_scalar_text(text) else None


_UP_TO_VALUE = re.compile(
    rb'(?:"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[^,\[{"]++)*+(?:([,\[{])|\Z)', re.DOTALL
)
"""Up to the next comma or opening bracket outside of strings, or to the end: no byte is looked at
twice, whether strings end or not."""
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_integer, parse_constant=_constant
)
