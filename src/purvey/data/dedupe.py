"""Duplicates: found, counted, and removed when asked, before any split is made."""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from purvey.contracts.data import TARGET_KINDS, Column, ColumnKind
from purvey.contracts.rows import PROMPT
from purvey.data.conversations import num_asked
from purvey.data.convert import Value
from purvey.data.near.images import near_images
from purvey.data.near.texts import near_texts

_CONTENT = {"text", "image", "audio", "conversation", "preference"}


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """What is asked in one column of the kept rows.

    Args:
        name: The column.
        exact: For each kept row, a digest of its value.
        near: The least digest of all values that are near it; equal to `exact` where none is.
    """

    name: str
    exact: list[bytes]
    near: list[bytes]


@dataclass(frozen=True, kw_only=True)
class Deduplicated:
    """Which rows stay.

    Args:
        kept: Row numbers that stay, in file order.
        groups: For each kept row, a digest of what is asked; equal and near texts and images,
            equal recordings and conversations share it, also when their labels or numbers differ
            (a row's own number or date makes no second message of it), and so do conversations
            that differ only from their last answer on, and preferences of one prompt. So a split
            can keep them on one side.
        contents: The columns that say what is asked.
        num_removed: Rows dropped because an equal one (its target included) came before.
        num_near_removed: Rows dropped because a near one with equal other values came before.
        num_near: Kept rows that ask something near, not equal, to what an earlier row asks.
        num_conflicts: Kept rows whose inputs an earlier row has with another target.
    """

    kept: list[int]
    groups: list[bytes]
    contents: tuple[Likeness, ...]
    num_removed: int
    num_near_removed: int
    num_near: int
    num_conflicts: int


def deduplicate(
    values: Mapping[str, Sequence[Value]],
    columns: tuple[Column, ...],
    *,
    removed: Literal["exact", "near"] | None,
) -> Deduplicated:
    """Find duplicates; with `removed` None every row stays, grouped all the same."""
    inputs = [c for c in columns if c.kind not in TARGET_KINDS]
    contents = [_likeness(c, values[c.name]) for c in inputs if c.kind in _CONTENT]
    others = [values[c.name] for c in inputs if c.kind not in _CONTENT]
    asked = _Asked(
        exact=[values[c.name] for c in inputs],
        near=[likeness.near for likeness in contents] or others,
        others=others,
        targets=[values[c.name] for c in columns if c.kind in TARGET_KINDS],
    )
    kept = _kept(asked, len(next(iter(values.values()))), removed)
    found = tuple(
        Likeness(
            name=one.name,
            exact=[one.exact[row] for row in kept.rows],
            near=[one.near[row] for row in kept.rows],
        )
        for one in contents
    )
    return Deduplicated(
        kept=kept.rows,
        groups=kept.groups,
        contents=found,
        num_removed=kept.num_removed,
        num_near_removed=kept.num_near_removed,
        num_near=_num_near(found),
        num_conflicts=kept.num_conflicts,
    )


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The inputs as they are; what they share with near ones; inputs that are no content."""

    exact: Sequence[Sequence[Value]]
    near: Sequence[Sequence[Value]]
    others: Sequence[Sequence[Value]]
    targets: Sequence[Sequence[Value]]


@dataclass(kw_only=True)
class _Kept:
    rows: list[int]
    groups: list[bytes]
    num_removed: int = 0
    num_near_removed: int = 0
    num_conflicts: int = 0


def _kept(asked: _Asked, num_rows: int, removed: Literal["exact", "near"] | None) -> _Kept:
    kept = _Kept(rows=[], groups=[])
    seen: set[bytes] = set()
    seen_near: set[bytes] = set()
    seen_inputs: dict[bytes, bytes] = {}
    for row in range(num_rows):
        given = _row_digest(asked.exact, row)
        whole = _digest([given, *(column[row] for column in asked.targets)])
        group = _row_digest(asked.near, row)
        alike = _digest([group, *(column[row] for column in (*asked.others, *asked.targets))])
        if removed is not None and whole in seen:
            kept.num_removed += 1
            continue
        seen.add(whole)
        if removed == "near" and alike in seen_near:
            kept.num_near_removed += 1
            continue
        seen_near.add(alike)
        kept.num_conflicts += seen_inputs.setdefault(given, whole) != whole
        kept.rows.append(row)
        kept.groups.append(group)
    return kept


def _likeness(column: Column, values: Sequence[Value]) -> Likeness:
    prompt = _PROMPTS.get(column.kind, _whole)
    exact = [_digest([prompt(value)]) for value in values]
    find = _NEAR.get(column.kind)
    if find is None:
        return Likeness(name=column.name, exact=exact, near=exact)
    places: dict[bytes, int] = {}
    for row, digest in enumerate(exact):
        places.setdefault(digest, row)
    digests = list(places)
    firsts = find([values[row] for row in places.values()])
    least: dict[int, bytes] = {}
    for digest, first in zip(digests, firsts, strict=True):
        least[first] = min(digest, least.get(first, digest))
    near = {digest: least[first] for digest, first in zip(digests, firsts, strict=True)}
    return Likeness(name=column.name, exact=exact, near=[near[digest] for digest in exact])


def _num_near(contents: Sequence[Likeness]) -> int:
    """Count what differs, less what differs from all that is near it."""
    exact = set(zip(*(one.exact for one in contents), strict=True))
    near = set(zip(*(one.near for one in contents), strict=True))
    return len(exact) - len(near)


def _whole(value: Value) -> Value:
    return value


def _prompt(conversation: Value) -> Value:
    """Return the turns before the last answer; all of them where nobody asks anything there."""
    assert isinstance(conversation, str), "a conversation is JSON text"
    turns = json.loads(conversation)
    asked = turns[: num_asked([turn["role"] for turn in turns])]
    return conversation if len(asked) == len(turns) else json.dumps(asked)


def _preference_prompt(preference: Value) -> Value:
    assert isinstance(preference, str), "a preference is JSON text"
    return json.dumps(json.loads(preference)[PROMPT])


_PROMPTS: dict[ColumnKind, Callable[[Value], Value]] = {
    "conversation": _prompt,
    "preference": _preference_prompt,
}
"""What is asked in a value that holds an answer too."""
_NEAR: dict[ColumnKind, Callable[[Sequence[Value]], list[int]]] = {
    "text": lambda values: near_texts(cast("Sequence[str]", values)),
    "image": lambda values: near_images(cast("Sequence[bytes]", values)),
}
"""Kinds of which near ones are found; for each value the first of those that are."""


def _row_digest(columns: Sequence[Sequence[Value]], row: int) -> bytes:
    return _digest([column[row] for column in columns])


def _digest(values: Sequence[Value]) -> bytes:
    """Hash values with their lengths, so that no two different rows share their bytes."""
    state = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, float):
            data = struct.pack("<d", value)
        else:
            data = value if isinstance(value, bytes) else value.encode()
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.digest()
