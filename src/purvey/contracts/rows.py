"""Training rows as OpenAI's formats have them, checked before a job is accepted."""

import json
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from purvey.contracts.files.problems import Problems, UnusableRowError
from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidFileError

ROLES = ("system", "developer", "user", "assistant", "tool")
PROMPT = "input"
"""Key of a preference's prompt: an object with `messages`."""
ANSWERS = ("preferred_output", "non_preferred_output")
"""Keys of its better and its worse answer: lists of one message each."""
_Refuse = Callable[[str], NoReturn]
_Row = dict[str, Any]  # an untyped JSON object


def check_chat_rows(lines: Iterable[bytes], *, param: str = "training_file") -> int:
    """Check every row of a supervised fine-tuning file; return how many there are.

    Each line is `{"messages": [{"role", "content"}, ...]}` with at least one assistant turn.
    Blank lines are passed over.

    Args:
        lines: The file's lines, undecoded.
        param: Name of the request's field, for the error.

    Raises:
        InvalidFileError: Names the first bad lines and what is wrong with each, or counts too few
            rows.
    """
    return _check_rows(lines, _check_conversation, param)


def check_preference_rows(lines: Iterable[bytes], *, param: str = "training_file") -> int:
    """Check every row of a preference file; return how many there are.

    Each line is `{"input": {"messages": [...]}, "preferred_output": [message],
    "non_preferred_output": [message]}`, both answers an assistant's and not equal.

    Args:
        lines: As for `check_chat_rows`.
        param: As for `check_chat_rows`.

    Raises:
        InvalidFileError: As for `check_chat_rows`.
    """
    return _check_rows(lines, _check_preference, param)


def _check_rows(
    lines: Iterable[bytes], check: Callable[[object, _Refuse], None], param: str
) -> int:
    count = 0
    problems = Problems(param=param)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        count += 1
        try:
            _check_row(line, check)
        except UnusableRowError as error:
            problems.add(number, str(error))
            if problems.is_full:
                break
    problems.check()
    if count < LIMITS.min_training_rows:
        raise InvalidFileError(
            f"the file has {count} rows; at least {LIMITS.min_training_rows} are needed.",
            param=param,
        )
    return count


def _check_row(line: bytes, check: Callable[[object, _Refuse], None]) -> None:
    def refuse(what: str) -> NoReturn:
        raise UnusableRowError(what)

    if len(line) > LIMITS.row_bytes:
        refuse(f"the row is longer than {LIMITS.row_bytes} bytes")
    try:
        row = json.loads(
            line,
            parse_constant=lambda name: refuse(f"{name} is not JSON"),
            object_pairs_hook=_object,
        )
    except _TwiceError:
        refuse("a key occurs twice")
    except UnusableRowError:
        raise
    except (ValueError, RecursionError):
        refuse("not valid JSON")
    check(row, refuse)


def _check_conversation(row: object, refuse: _Refuse) -> None:
    if isinstance(row, dict) and PROMPT in row and ANSWERS[0] in row:
        refuse('a preference, which the method "dpo" learns from')
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        refuse('a row is an object with a list "messages"')
    messages = row["messages"]
    _check_messages(messages, "messages", refuse)
    if not any(m["role"] == "assistant" and m["content"] for m in messages):
        refuse("there is no assistant turn with content to learn from")


def _check_preference(row: object, refuse: _Refuse) -> None:
    if isinstance(row, dict) and "messages" in row and PROMPT not in row:
        refuse('a conversation, which the method "supervised" learns from')
    if not isinstance(row, dict) or not isinstance(row.get(PROMPT), dict):
        refuse(f'a row is an object with "{PROMPT}", "{ANSWERS[0]}" and "{ANSWERS[1]}"')
    messages = row[PROMPT].get("messages")
    if not isinstance(messages, list):
        refuse(f'"{PROMPT}" is an object with a list "messages"')
    _check_messages(messages, f"{PROMPT}.messages", refuse)
    answers = [_answer(row, name, refuse) for name in ANSWERS]
    if answers[0] == answers[1]:
        refuse("the two answers are equal: there is nothing to prefer")


def _answer(row: _Row, name: str, refuse: _Refuse) -> object:
    messages = row.get(name)
    if not isinstance(messages, list) or len(messages) != 1:
        refuse(f'"{name}" must hold exactly one message')
    _check_messages(messages, name, refuse)
    if messages[0]["role"] != "assistant" or not messages[0]["content"]:
        refuse(f'"{name}" must be an assistant turn with content')
    return messages[0]["content"]


def _check_messages(messages: list[Any], name: str, refuse: _Refuse) -> None:
    if not 0 < len(messages) <= LIMITS.messages:
        refuse(f'"{name}" must hold 1 to {LIMITS.messages} turns')
    for place, message in enumerate(messages):
        problem = _problem(message)
        if problem:
            refuse(f"{name}[{place}]: {problem}")


class _TwiceError(Exception):
    """A key occurs twice, and two readers could differ on its value."""


def _object(pairs: list[tuple[str, Any]]) -> _Row:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError
    return found


def _problem(message: object) -> str | None:
    if not isinstance(message, dict):
        return "a turn is an object"
    if message.get("role") not in ROLES:
        return f'"role" must be one of {", ".join(ROLES)}'
    content = message.get("content")
    if not isinstance(content, str):
        return '"content" must be a text'
    try:
        content.encode()
    except UnicodeEncodeError:
        return '"content" holds half of a surrogate pair'
    return None
