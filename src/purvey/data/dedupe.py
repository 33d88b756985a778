"""Exact duplicates: removed and counted, before any split is made."""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from purvey.contracts.data import TARGET_KINDS, Column, ColumnKind
from purvey.contracts.rows import PROMPT
from purvey.data.convert import Value

_CONTENT = {"text", "image", "audio", "conversation", "preference"}


@dataclass(frozen=True, kw_only=True)
class Deduplicated:
    """Which rows stay.

    Args:
        kept: Row numbers that stay, in file order.
        groups: For each kept row, a digest of what is asked; equal texts, images, recordings and
            conversations share it, also when their labels or numbers differ (a row's own number
            or date makes no second message of it), and so do conversations that differ only
            from their last answer on, and preferences of one prompt. So a split can keep them on
            one side.
        num_removed: Rows dropped because an equal one (its target included) came before.
        num_conflicts: Kept rows whose inputs an earlier row has with another target.
    """

    kept: list[int]
    groups: list[bytes]
    num_removed: int
    num_conflicts: int


def deduplicate(
    values: Mapping[str, Sequence[Value]], columns: tuple[Column, ...], *, is_wanted: bool
) -> Deduplicated:
    """Find exact duplicates; with `is_wanted` false every row stays, grouped all the same."""
    inputs = [(c.kind, values[c.name]) for c in columns if c.kind not in TARGET_KINDS]
    contents = [(kind, column) for kind, column in inputs if kind in _CONTENT] or inputs
    targets = [values[c.name] for c in columns if c.kind in TARGET_KINDS]
    num_rows = len(next(iter(values.values())))
    kept: list[int] = []
    groups: list[bytes] = []
    seen: set[bytes] = set()
    seen_inputs: dict[bytes, bytes] = {}
    num_conflicts = 0
    for row in range(num_rows):
        given = _digest([column[row] for _, column in inputs])
        whole = _digest([given, *(column[row] for column in targets)])
        if is_wanted and whole in seen:
            continue
        seen.add(whole)
        num_conflicts += seen_inputs.setdefault(given, whole) != whole
        kept.append(row)
        asked = (_PROMPTS.get(kind, _whole)(c[row]) for kind, c in contents)
        groups.append(_digest(list(asked)))
    return Deduplicated(
        kept=kept, groups=groups, num_removed=num_rows - len(kept), num_conflicts=num_conflicts
    )


def _whole(value: Value) -> Value:
    return value


def _prompt(conversation: Value) -> Value:
    """Return the turns before the last answer; all of them where nobody asks anything there."""
    assert isinstance(conversation, str), "a conversation is JSON text"
    turns = json.loads(conversation)
    last = max(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
    if not any(turn["role"] == "user" for turn in turns[:last]):
        return conversation
    return json.dumps(turns[:last])


def _preference_prompt(preference: Value) -> Value:
    assert isinstance(preference, str), "a preference is JSON text"
    return json.dumps(json.loads(preference)[PROMPT])


_PROMPTS: dict[ColumnKind, Callable[[Value], Value]] = {
    "conversation": _prompt,
    "preference": _preference_prompt,
}
"""What is asked in a value that holds an answer too."""


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
