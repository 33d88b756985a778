"""What the OpenAPI document says of each field of each body, and values around its limits.

A field is a path of names and of 0 for the items of a list; its forms are the alternatives that
the document allows there.
"""

import copy
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

Json = Any
Path = tuple[str | int, ...]
Forms = list[dict[str, Json]]
KINDS: tuple[Json, ...] = (
    None,
    True,
    1,
    -1,
    1.5,
    "1",
    "\U0001f600",
    [],
    {},
    [[]],
    [None],
    {"\u00e9": [1]},
)
"""One of each type, and some within others."""
ABSURD: tuple[Json, ...] = (10**18, -(10**18), 10**30, -(10**30), 1e308, -1e308, 5e-324, 2**63)
TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def fields_of(document: Json, schema: Json) -> dict[Path, Forms]:
    """Return the forms of every field of a schema, without those that take anything."""
    found: defaultdict[Path, Forms] = defaultdict(list)
    for path, form in _walk(document, schema, (), frozenset()):
        found[path].append(form)
    return {path: forms for path, forms in found.items() if path and all(forms)}


def _walk(
    document: Json, schema: Json, path: Path, seen: frozenset[str]
) -> Iterator[tuple[Path, dict[str, Json]]]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in seen:
            yield from _walk(document, _named(document, name), path, seen | {name})
        return
    for alternative in schema.get("anyOf", schema.get("oneOf", ())):
        yield from _walk(document, alternative, path, seen)
    if "anyOf" in schema or "oneOf" in schema:
        return
    plain = {k: v for k, v in schema.items() if k not in {"title", "description", "default"}}
    yield path, plain
    for name, below in schema.get("properties", {}).items():
        yield from _walk(document, below, (*path, name), seen)
    if "items" in schema:
        yield from _walk(document, schema["items"], (*path, 0), seen)


def _named(document: Json, name: str) -> Json:
    return document.get("components", document).get("schemas", document.get("$defs"))[name]


def is_accepted(forms: Forms, value: Json) -> bool:
    """Tell whether one of the forms takes the value, as far as the value itself is concerned."""
    return any(_fits(form, value) for form in forms)


def _fits(form: Mapping[str, Json], value: Json) -> bool:
    if "const" in form or "enum" in form:
        return value in form.get("enum", [form.get("const")]) and not isinstance(value, bool)
    kind = form.get("type")
    is_right = kind is None or isinstance(value, TYPES[kind])
    if not is_right or (isinstance(value, bool) and kind not in {"boolean", None}):
        return False
    if isinstance(value, int | float):
        return _fits_number(form, value)
    if isinstance(value, str):
        return _fits_length(form, len(value), "Length") and _fits_pattern(form, value)
    if isinstance(value, list):
        return _fits_length(form, len(value), "Items")
    return not isinstance(value, dict) or _fits_length(form, len(value), "Properties")


def _fits_number(form: Mapping[str, Json], value: float) -> bool:
    return bool(
        form.get("minimum", -math.inf) <= value <= form.get("maximum", math.inf)
        and form.get("exclusiveMinimum", -math.inf) < value
        and value < form.get("exclusiveMaximum", math.inf)
    )


def _fits_length(form: Mapping[str, Json], length: int, of: str) -> bool:
    return bool(form.get(f"min{of}", 0) <= length <= form.get(f"max{of}", math.inf))


def _fits_pattern(form: Mapping[str, Json], value: str) -> bool:
    return "pattern" not in form or re.fullmatch(form["pattern"], value) is not None


def at_limits(forms: Forms, present: Json) -> Iterator[Json]:
    """Yield values on the right side of each limit; `present` is one that is accepted."""
    for form in forms:
        for value in itertools.chain(_numbers_within(form), _texts_within(form)):
            if is_accepted(forms, value):
                yield value
        if "maxItems" in form and isinstance(present, list) and present:
            yield _repeated(present, form["maxItems"])


def beyond_limits(forms: Forms, present: Json) -> Iterator[Json]:
    """Yield values on the wrong side of each limit, absurd ones, and those of other types."""
    beyond = itertools.chain.from_iterable(_beyond(form, present) for form in forms)
    for value in itertools.chain(beyond, KINDS):
        if not is_accepted(forms, value):
            yield value


def _numbers_within(form: Mapping[str, Json]) -> Iterator[Json]:
    cast = int if form.get("type") == "integer" else float
    for name in ("minimum", "maximum"):
        if name in form:
            yield cast(form[name])
    if "exclusiveMaximum" in form:
        top = form["exclusiveMaximum"]
        yield int(top) - 1 if cast is int else math.nextafter(top, -math.inf)
    if "exclusiveMinimum" in form:
        bottom = form["exclusiveMinimum"]
        yield int(bottom) + 1 if cast is int else math.nextafter(bottom, math.inf)


def _texts_within(form: Mapping[str, Json]) -> Iterator[Json]:
    yield from form.get("enum", ())
    if "const" in form:
        yield form["const"]
    for name in ("minLength", "maxLength"):
        if name in form:
            yield "a" * form[name]


def _beyond(form: Mapping[str, Json], present: Json) -> Iterator[Json]:
    if form.get("type") in {"integer", "number"}:
        yield from _numbers_beyond(form)
    elif form.get("type") == "string":
        yield from _texts_beyond(form)
    elif "maxItems" in form and isinstance(present, list) and present:
        for count in (form["maxItems"] + 1, min(form["maxItems"] * 10, 50_000)):
            yield _repeated(present, count)
    elif "maxProperties" in form and isinstance(present, dict) and present:
        value = next(iter(present.values()))
        for count in (form["maxProperties"] + 1, form["maxProperties"] * 10):
            yield {f"key{i}": value for i in range(count)}


def _numbers_beyond(form: Mapping[str, Json]) -> Iterator[Json]:
    step = 1 if form["type"] == "integer" else 2**-20
    for name, sign in (("minimum", -1), ("maximum", 1)):
        if name in form:
            yield (int(form[name]) if step == 1 else form[name]) + sign * step
    for name in ("exclusiveMinimum", "exclusiveMaximum"):
        if name in form:
            yield int(form[name]) if step == 1 else form[name]
    if len(form) > 1:
        yield from ABSURD


def _texts_beyond(form: Mapping[str, Json]) -> Iterator[Json]:
    if "maxLength" in form:
        yield "a" * (form["maxLength"] + 1)
        yield "a" * min(form["maxLength"] * 10, 2**23)
    if len(form) > 1:
        yield ""
        yield from (
            ("a" * 100_000, "\x00", "\uffff", "a\n", "no such word")
            if "maxLength" not in form
            else ()
        )


def _repeated(present: list[Json], count: int) -> list[Json]:
    return list(itertools.islice(itertools.cycle(present), count))


def value_at(body: Json, path: Path) -> Json:
    """Return what a body has at a path.

    Raises:
        LookupError: It has nothing there.
    """
    step: Any  # of a list or of an object
    for step in path:
        if not isinstance(body, list if isinstance(step, int) else dict):
            raise KeyError(step)
        body = body[step]
    return body


def with_value(body: Json, path: Path, value: Json) -> Json:
    """Return a copy of a body with another value at a path whose parent it has.

    Raises:
        LookupError: It has no such parent.
    """
    changed = copy.deepcopy(body)
    last: Any = path[-1]
    parent = value_at(changed, path[:-1])
    if not isinstance(parent, list if isinstance(last, int) else dict):
        raise KeyError(last)
    parent[last] = value
    return changed
