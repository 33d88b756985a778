"""What a validation file asks that the training file asks too: counted, exact and near."""

import pytest

from purvey.contracts.engine import ChatMessage
from purvey.data.conversations import Conversation
from purvey.data.overlap import Asking, Overlap, overlap
from purvey.data.preferences import Preference

RULES = "You are the assistant of a parcel service. Answer in one short, friendly sentence." * 3
ASKED = "Where is the parcel that I ordered on the second of May for my mother?"
NEARLY = "where is the parcel that I ordered on the second of May for my mother"
OTHER = "How much is a letter of twenty grams to a village in the mountains?"


def talk(*users: str, rules: str = RULES, answer: str = "Let me look.") -> Conversation:
    turns = [ChatMessage(role="system", content=rules)]
    for said in users:
        turns.append(ChatMessage(role="user", content=said))
        turns.append(ChatMessage(role="assistant", content=answer))
    return tuple(turns)


def pair(prompt: str, better: str) -> Preference:
    preferred, rejected = (ChatMessage(role="assistant", content=said) for said in (better, "No."))
    asked = (ChatMessage(role="user", content=prompt),)
    return Preference(prompt=asked, preferred=preferred, rejected=rejected)


LAST = (ChatMessage(role="assistant", content="Once upon a time there was a parcel."),)
ROWS: dict[str, tuple[Asking, Asking, Overlap]] = {
    "another question under the same rules": (talk(OTHER), talk(ASKED), Overlap(exact=0, near=0)),
    "the same": (talk(ASKED), talk(ASKED), Overlap(exact=1, near=1)),
    "only the last answer differs": (
        talk(ASKED, answer="It is here."), talk(ASKED), Overlap(exact=1, near=1)
    ),
    "under other rules": (talk(ASKED, rules="Be brief."), talk(ASKED), Overlap(exact=0, near=1)),
    "nearly the same": (talk(NEARLY), talk(ASKED), Overlap(exact=0, near=1)),
    "it goes on elsewhere": (talk(ASKED), talk(ASKED, OTHER), Overlap(exact=0, near=0)),
    "nobody asks": (LAST, LAST, Overlap(exact=1, near=1)),
    "a prompt preferred otherwise": (
        pair(ASKED, "Yes."), pair(ASKED, "Perhaps."), Overlap(exact=1, near=1)
    ),
    "another prompt": (pair(OTHER, "Yes."), pair(ASKED, "Yes."), Overlap(exact=0, near=0)),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_held_by_what_it_asks(name: str) -> None:
    row, held, found = ROWS[name]
    assert overlap([row], [held]) == found


def test_every_row_of_the_first_counts_and_no_row_of_the_second() -> None:
    rows = [talk(ASKED), talk(ASKED), talk(NEARLY), talk(OTHER)]
    assert overlap(rows, [talk(ASKED)] * 7) == Overlap(exact=2, near=3)
    assert overlap([], rows) == overlap(rows, []) == Overlap(exact=0, near=0)
