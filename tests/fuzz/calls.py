"""Calls of one operation: as its description generates them, or near what it accepts.

What is drawn does not depend on the server, so that a seed stands for the same calls; the ids
of what is there are filled in when a call is made.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hypothesis import strategies as st
from schemathesis import APIOperation, GenerationMode
from schemathesis.generation.case import Case

if TYPE_CHECKING:
    from tests.fuzz.world import World

Json = Any
Operation = APIOperation[Any, Any, Any, Any]
AnyCase = Case[Any]
Place = tuple[Json, Any]
How = Literal["replace", "remove", "add"]
Form = Literal["generated", "merged", "changed"]
Way = tuple[Form, GenerationMode]
WAYS: tuple[Way, ...] = (
    ("generated", GenerationMode.POSITIVE),
    ("generated", GenerationMode.NEGATIVE),
    ("merged", GenerationMode.POSITIVE),
    ("merged", GenerationMode.NEGATIVE),
    ("changed", GenerationMode.POSITIVE),
    ("changed", GenerationMode.POSITIVE),
)
JUNK: tuple[Json, ...] = (
    None, True, 0, -1, 1.5, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**40, 1e308, 5e-324,
    "", " ", "\x00", "é", "\U0001f600", "\ud7ff\ue000", "a" * 300, "../x", "data:image/png;base64,",
    [], [[]], ["a", "a"], [None], list(range(300)), {}, {"": ""}, {"x": {"y": [1, 2, {"z": None}]}},
    {"text": "a"}, {"image": "file-0"}, "auto", "text", "user", "inf", "NaN", "1", "true",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change of a body: the value at a place replaced, removed, or given a neighbour."""

    place: int
    how: How
    value: Json


@dataclass(frozen=True, kw_only=True)
class Call:
    """A drawn call.

    Attributes:
        case: As the description generates it.
        form: Sent as generated; its fields over a body that is accepted; or such a body changed.
        has_real_ids: Whether its path names what is there.
        keeps_credentials: Whether the generated credentials are sent rather than ours.
    """

    case: AnyCase
    form: Form
    has_real_ids: bool = True
    keeps_credentials: bool = False
    template: int = 0
    kept: frozenset[int] = frozenset()
    changes: tuple[Change, ...] = ()


_changes = st.builds(
    Change,
    place=st.integers(0, 2**16),
    how=st.sampled_from(("replace", "replace", "remove", "add")),
    value=st.sampled_from(JUNK),
)


def ways(operation: Operation) -> tuple[Way, ...]:
    """Return the ways in which calls of an operation are drawn, the most telling ones often."""
    if len(operation.body):
        return WAYS
    takes_data = any(True for _ in operation.iter_parameters())
    return WAYS[:2] if takes_data else WAYS[:1]


@st.composite
def calls(draw: st.DrawFn, operation: Operation, way: Way) -> Call:
    """Draw a call of an operation in one of its ways."""
    form, mode = way
    return Call(
        case=draw(operation.as_strategy(generation_mode=mode)),
        form=form,
        has_real_ids=draw(st.integers(0, 3)) > 0,
        keeps_credentials=draw(st.integers(0, 15)) == 15,
        template=draw(st.integers(0, 2)),
        kept=draw(st.frozensets(st.integers(0, 40), min_size=1, max_size=2)),
        changes=tuple(draw(st.lists(_changes, min_size=1, max_size=2))),
    )


def pristine(operation: Operation) -> Call:
    """Return the call that the operation is to accept."""
    media = next((body.media_type for body in operation.body), None)
    return Call(case=operation.Case(media_type=media), form="changed")


def completed(call: Call, world: "World", *, admin_key: str) -> AnyCase:
    """Return the case to send, with the ids and the key of a running server."""
    case, operation = call.case, call.case.operation
    if call.has_real_ids:
        case.path_parameters = dict(world.path_parameters(case.method, operation.path))
    if not call.keeps_credentials:
        case.headers["Authorization"] = f"Bearer {admin_key}"
    bodies = world.bodies(operation.path) if call.form != "generated" else []
    if bodies and case.method == "POST":
        body = copy.deepcopy(bodies[call.template % len(bodies)])
        case.body = _merged(body, call) if call.form == "merged" else _changed(body, call)
    return case


def _merged(body: Json, call: Call) -> Json:
    given = call.case.body
    if not isinstance(given, dict):
        return body
    names = sorted(given)
    kept = {names[place % len(names)] for place in call.kept} if names else set()
    return body | {name: given[name] for name in kept}


def _changed(body: Json, call: Call) -> Json:
    for change in call.changes:
        if places := list(_places(body)):
            holder, key = places[change.place % len(places)]
            _apply(change.how, copy.deepcopy(change.value), holder, key)
    return body


def _places(value: Json) -> Iterator[Place]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, below in items:
        yield value, key
        if isinstance(below, dict | list):
            yield from _places(below)


def _apply(how: How, value: Json, holder: Json, key: Any) -> None:
    match how, holder:
        case "remove", _:
            del holder[key]
        case "add", dict():
            holder[f"{key}_"] = value
        case "add", _:
            holder.insert(key, value)
        case _:
            holder[key] = value
