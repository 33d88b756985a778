"""Rows of a validation file that ask what the training file asks too.

A dataset keeps such rows on one side of its splits; two files are learned and measured as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from purvey.data.conversations import Conversation, num_asked
from purvey.data.near.texts import near_texts
from purvey.data.preferences import Preference

Asking = Conversation | Preference


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How many rows ask the same.

    Args:
        exact: Rows whose turns before the last answer are another's, word by word.
        near: Rows whose users say nearly what another's say; the equal ones among them.
    """

    exact: int
    near: int


def overlap(rows: Sequence[Asking], others: Sequence[Asking]) -> Overlap:
    """Count the rows that ask what one of `others` asks.

    What users say is compared like the texts of a dataset: the instructions before it, which all
    rows of a file may have in common, make no two of them near.
    """
    if not rows:
        return Overlap(exact=0, near=0)
    mine, theirs = [*map(_prompt, rows)], dict.fromkeys(map(_prompt, others))
    said = list(dict.fromkeys(map(_said, (*theirs, *mine))))
    first = dict(zip(said, near_texts(said), strict=True))
    held = {first[_said(prompt)] for prompt in theirs}
    exact = [prompt in theirs for prompt in mine]
    near = [first[_said(prompt)] in held for prompt in mine]
    return Overlap(exact=sum(exact), near=sum(near))


def _prompt(row: Asking) -> Conversation:
    """Return the turns before the last answer; all of them where nobody asks anything there."""
    if isinstance(row, Preference):
        return row.prompt
    return row[: num_asked([turn.role for turn in row])]


def _said(prompt: Conversation) -> str:
    """Return what users say of a prompt; of one without users, all of it."""
    users = [turn.content for turn in prompt if turn.role == "user"]
    return "\n".join(users or [turn.content for turn in prompt])
