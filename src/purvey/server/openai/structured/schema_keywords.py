"""JSON schemas, keyword by keyword: what is enforced, what only describes, what is refused.

Draft 2020-12, without what a left-to-right writer cannot obey. A keyword that would silently not
be enforced is refused by name and place, and what only describes is left out of the result.
"""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import msgspec

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidSchemaError
from purvey.server.openai.structured.regex_size import check_regex

Schema = dict[str, Any] | bool  # JSON, checked here
TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"}
)
DESCRIBING = frozenset(
    {
        *("title", "description", "default", "examples", "$comment", "deprecated"),
        *("readOnly", "writeOnly", "contentEncoding", "contentMediaType", "discriminator"),
    }
)
AT_ROOT = frozenset({"$schema", "$id"})
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_HINT = "Leave it out, or say it in the prompt."
_Check = Callable[[Any, str], Any]  # a JSON value and its place; returns it as it is kept
_IMPLIED = frozenset({"minProperties", "uniqueItems"})
"""Let through only where they ask for nothing more, so that nothing is to be kept of them."""


def enforceable(schema: Schema, at: str) -> str:
    """Return a schema's JSON text with nothing in it that is not enforced.

    Args:
        schema: JSON as it was given.
        at: What errors call its place, `response_format.json_schema.schema`.

    Raises:
        InvalidSchemaError: Names the keyword and its place.
    """
    kept = _schema(schema, at, is_root=True)
    text = msgspec.json.encode(kept).decode()
    if len(text) > LIMITS.schema_chars:
        message = f"a schema has at most {LIMITS.schema_chars} characters."
        raise InvalidSchemaError(message, param=at)
    return text


def _schema(value: Any, at: str, *, is_root: bool = False) -> Schema:  # noqa: ANN401 (JSON)
    if isinstance(value, bool):
        return value
    if not isinstance(value, dict):
        raise _wrong(at, "must be a schema: an object or a boolean")
    kept: dict[str, Any] = {}
    for name, given in value.items():
        if name in DESCRIBING or (is_root and name in AT_ROOT):
            continue
        place = f"{at}.{name[:64]}"
        check = _KEYWORDS.get(name)
        if check is None:
            raise _unknown(name, place)
        found = check(given, place)
        if name not in _IMPLIED:
            kept[name] = found
    _check_together(value, at)
    return kept


def _check_together(schema: dict[str, Any], at: str) -> None:
    required = schema.get("required", [])
    if schema.get("minProperties", 0) > len(required):
        raise InvalidSchemaError(
            "minProperties beyond the number of required properties is not supported.",
            param=f"{at}.minProperties",
            hint="List them as required.",
        )
    _check_bounds(schema, at)


def _check_bounds(schema: dict[str, Any], at: str) -> None:
    """Refuse a whole number that is excluded less than 1 from the other bound.

    The library that enforces bounds would let that number through: it writes both bounds as one
    whole part with two fractions, and forgets the part that has none.
    """
    bounds = _bounds(schema)
    for edge, other, sign in (("Minimum", "maximum", 1), ("Maximum", "minimum", -1)):
        excluded = bounds[f"exclusive{edge}"]
        others = bounds[other] + bounds[f"exclusive{other.title()}"]
        if any(one == int(one) and sign * (end - one) < 1 for one in excluded for end in others):
            raise InvalidSchemaError(
                f"a whole number as exclusive{edge} less than 1 from the other bound is not "
                "supported.",
                param=f"{at}.exclusive{edge}",
                hint=f"Use {edge.lower()} with a fraction.",
            )


def _bounds(schema: Any) -> dict[str, list[int | float]]:  # noqa: ANN401 (JSON)
    found: dict[str, list[int | float]] = {name: [] for name in _BOUNDS}
    if isinstance(schema, dict):
        for name in _BOUNDS & schema.keys():
            found[name].append(schema[name])
        for part in schema.get("allOf", []):
            for name, values in _bounds(part).items():
                found[name] += values
    return found


def _unknown(name: str, place: str) -> InvalidSchemaError:
    near = get_close_matches(name, _KEYWORDS, n=1)
    hint = f"Did you mean {near[0]!r}?" if near and name not in _UNSUPPORTED else _HINT
    said = "is not supported" if name in _UNSUPPORTED else "is no keyword that is enforced here"
    return InvalidSchemaError(f"the keyword {name[:64]!r} {said}.", param=place, hint=hint)


def _wrong(place: str, must: str) -> InvalidSchemaError:
    return InvalidSchemaError(f"{place.rsplit('.', 1)[-1]!r} {must}.", param=place)


def _type(value: Any, at: str) -> Any:  # noqa: ANN401 (JSON)
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(isinstance(one, str) and one in TYPES for one in listed):
        raise _wrong(at, f"must be one or some of {', '.join(sorted(TYPES))}")
    return value


def _values(value: Any, at: str) -> list[Any]:  # noqa: ANN401 (JSON)
    if not isinstance(value, list) or not value:
        raise _wrong(at, "must be a list of values, at least one")
    return [_value(one, f"{at}.{i}") for i, one in enumerate(value)]


def _value(value: Any, at: str) -> Any:  # noqa: ANN401 (JSON)
    if len(msgspec.json.encode(value)) > LIMITS.literal_chars:
        raise _wrong(at, f"is longer than {LIMITS.literal_chars} characters")
    return value


def _named_schemas(value: Any, at: str) -> dict[str, Schema]:  # noqa: ANN401 (JSON)
    if not isinstance(value, dict):
        raise _wrong(at, "must be an object of schemas")
    for name in value:
        if len(name) > LIMITS.literal_chars:
            raise _wrong(at, f"has a name longer than {LIMITS.literal_chars} characters")
    return {name: _schema(one, f"{at}.{name[:64]}") for name, one in value.items()}


def _patterned_schemas(value: Any, at: str) -> dict[str, Schema]:  # noqa: ANN401 (JSON)
    found = _named_schemas(value, at)
    for pattern in found:
        check_regex(pattern, at)
    return found


def _schemas(value: Any, at: str) -> list[Schema]:  # noqa: ANN401 (JSON)
    if not isinstance(value, list) or not value:
        raise _wrong(at, "must be a list of schemas, at least one")
    return [_schema(one, f"{at}.{i}") for i, one in enumerate(value)]


def _items(value: Any, at: str) -> Schema:  # noqa: ANN401 (JSON)
    if isinstance(value, list):
        raise InvalidSchemaError("a list of schemas is called prefixItems.", param=at)
    return _schema(value, at)


def _names(value: Any, at: str) -> list[str]:  # noqa: ANN401 (JSON)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _wrong(at, "must be a list of names")
    return value


def _count(value: Any, at: str) -> int:  # noqa: ANN401 (JSON)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise _wrong(at, "must be a whole number from 0 to 2147483647")
    return value


def _number(value: Any, at: str) -> int | float:  # noqa: ANN401 (JSON)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(at, "must be a number")
    return value


def _positive(value: Any, at: str) -> int | float:  # noqa: ANN401 (JSON)
    if _number(value, at) <= 0:
        raise _wrong(at, "must be above 0")
    found: int | float = value
    return found


def _pattern(value: Any, at: str) -> str:  # noqa: ANN401 (JSON)
    if not isinstance(value, str):
        raise _wrong(at, "must be a regular expression")
    check_regex(value, at)
    return value


def _format(value: Any, at: str) -> str:  # noqa: ANN401 (JSON)
    if not isinstance(value, str) or value not in FORMATS:
        raise _wrong(at, f"must be one of {', '.join(sorted(FORMATS))}")
    return value


def _reference(value: Any, at: str) -> str:  # noqa: ANN401 (JSON)
    if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
        raise _wrong(at, "must point into the same schema, such as '#/$defs/name'")
    return value


def _false(value: Any, at: str) -> None:  # noqa: ANN401 (JSON)
    if value is not False:
        raise InvalidSchemaError("only false is supported.", param=at, hint=_HINT)


_KEYWORDS: dict[str, _Check] = {
    "type": _type,
    "enum": _values,
    "const": _value,
    "properties": _named_schemas,
    "required": _names,
    "additionalProperties": _schema,
    "patternProperties": _patterned_schemas,
    "minProperties": _count,
    "maxProperties": _count,
    "items": _items,
    "prefixItems": _schemas,
    "minItems": _count,
    "maxItems": _count,
    "uniqueItems": _false,
    "minLength": _count,
    "maxLength": _count,
    "pattern": _pattern,
    "format": _format,
    "minimum": _number,
    "maximum": _number,
    "exclusiveMinimum": _number,
    "exclusiveMaximum": _number,
    "multipleOf": _positive,
    "anyOf": _schemas,
    "oneOf": _schemas,
    "allOf": _schemas,
    "$ref": _reference,
    "$defs": _named_schemas,
    "definitions": _named_schemas,
}
KEYWORDS = tuple(_KEYWORDS)
"""What is enforced, in the order of the documentation."""
_UNSUPPORTED = frozenset(
    {
        *("not", "if", "then", "else", "contains", "minContains", "maxContains"),
        *("propertyNames", "dependentRequired", "dependentSchemas", "dependencies"),
        *("unevaluatedItems", "unevaluatedProperties", "additionalItems", "contentSchema"),
        *("$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$id", "$schema"),
    }
)
