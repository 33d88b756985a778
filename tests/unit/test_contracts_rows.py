"""Training rows: what is accepted, and what is refused by its line."""

import json
from typing import Any

import pytest

from purvey.contracts.limits import LIMITS
from purvey.contracts.rows import check_chat_rows, check_preference_rows
from purvey.errors import InvalidFileError

USER: dict[str, Any] = {"role": "user", "content": "q"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "a"}


def row(*messages: object, **others: object) -> bytes:
    return json.dumps({"messages": list(messages), **others}).encode() + b"\n"


GOOD = row(USER, ANSWER)


def test_rows_are_counted_and_blank_lines_passed_over() -> None:
    assert check_chat_rows([GOOD, b"\n", *[GOOD] * 10, b"  \n"]) == 11


def test_other_keys_beside_messages_are_let_be() -> None:
    assert check_chat_rows([row(USER, ANSWER, note={})] * 10) == 10


@pytest.mark.parametrize("role", ["system", "developer", "tool"])
def test_these_roles_are_known_beside_user_and_assistant(role: str) -> None:
    assert check_chat_rows([row({"role": role, "content": "x"}, USER, ANSWER)] * 10) == 10


def test_too_few_rows_are_counted() -> None:
    with pytest.raises(InvalidFileError, match="9 rows; at least 10") as raised:
        check_chat_rows([GOOD] * 9, param="validation_file")
    assert raised.value.param == "validation_file"


BAD: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{oops\n", "not valid JSON"),
    "not UTF-8": (b'{"messages": "\xff"}\n', "not valid JSON"),
    "NaN": (b'{"messages": [], "x": NaN}\n', "NaN"),
    "a list": (b"[]\n", '"messages"'),
    "messages of another kind": (b'{"messages": {}}\n', '"messages"'),
    "no turn": (row(), "1 to"),
    "too many turns": (row(*[USER] * (LIMITS.messages + 1)), "1 to"),
    "a turn that is no object": (row(USER, "x"), r"messages\[1\]"),
    "a role unheard of": (row({"role": "king", "content": "x"}), '"role"'),
    "content of parts": (row({"role": "user", "content": []}, ANSWER), '"content"'),
    "no answer": (row(USER), "assistant"),
    "an empty answer": (row(USER, {"role": "assistant", "content": ""}), "assistant"),
    "a key twice": (b'{"messages": [], "messages": []}\n', "twice"),
    "half of a pair": (row(USER, {"role": "assistant", "content": "\ud800"}), "surrogate"),
    "too long": (b" " * LIMITS.row_bytes + GOOD, "longer than"),
    "too deep": (b"[" * 100_000 + b"\n", "not valid JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_refused_by_its_line_without_its_content(name: str) -> None:
    line, why = BAD[name]
    with pytest.raises(InvalidFileError, match=rf"line 13: .*{why}") as raised:
        check_chat_rows([*[GOOD] * 12, line])
    assert "king" not in raised.value.text


def test_bad_rows_are_told_together_and_no_more_than_twenty_are_read() -> None:
    def lines() -> Any:
        yield GOOD
        yield b"{"
        yield row(USER)
        yield from [b"{"] * 18
        raise AssertionError

    with pytest.raises(InvalidFileError, match=r"lines 2, 4, .*: not valid JSON\. line 3: there"):
        check_chat_rows(lines())


def preference(**changes: object) -> bytes:
    whole: dict[str, object] = {
        "input": {"messages": [USER], "tools": []},
        "preferred_output": [ANSWER],
        "non_preferred_output": [ANSWER | {"content": "b"}],
    }
    return json.dumps(whole | changes).encode() + b"\n"


def test_preferences_are_counted_like_conversations() -> None:
    assert check_preference_rows([preference(), b"\n", *[preference(note=1)] * 10]) == 11
    with pytest.raises(InvalidFileError, match="9 rows; at least 10"):
        check_preference_rows([preference()] * 9)


BAD_PREFERENCES: dict[str, tuple[bytes, str]] = {
    "a conversation": (GOOD, 'a conversation, which the method "supervised" learns from'),
    "something else": (b"{}\n", '"input", "preferred_output" and "non_preferred_output"'),
    "a prompt of text": (preference(input="q"), '"input"'),
    "a prompt without turns": (preference(input={"messages": []}), r"input\.messages"),
    "no list of turns": (preference(input={}), '"messages"'),
    "a turn that is no object": (preference(input={"messages": ["x"]}), r"input\.messages\[0\]"),
    "no answer": (preference(preferred_output=[]), '"preferred_output" must hold exactly one'),
    "an answer of text": (preference(preferred_output="a"), '"preferred_output"'),
    "two answers": (preference(non_preferred_output=[ANSWER] * 2), "exactly one"),
    "a user's answer": (preference(non_preferred_output=[USER]), "an assistant turn"),
    "an empty answer": (preference(preferred_output=[ANSWER | {"content": ""}]), "an assistant"),
    "equal answers": (preference(non_preferred_output=[ANSWER]), "nothing to prefer"),
    "NaN": (preference().replace(b'"tools": []', b'"tools": NaN'), "NaN"),
}


@pytest.mark.parametrize("name", BAD_PREFERENCES)
def test_a_bad_preference_is_refused_by_its_line(name: str) -> None:
    line, why = BAD_PREFERENCES[name]
    with pytest.raises(InvalidFileError, match=rf"line 13: .*{why}"):
        check_preference_rows([*[preference()] * 12, line])


def test_a_preference_among_conversations_says_which_method_learns_from_it() -> None:
    with pytest.raises(InvalidFileError, match=r'line 1: .*method "dpo"'):
        check_chat_rows([preference()])
