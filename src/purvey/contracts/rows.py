"""Training rows as OpenAI's chat format has them, checked before a job is accepted."""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidFileError

ROLES = ("system", "developer", "user", "assistant", "tool")
_SHOWN_CHARS = 40


def check_chat_rows(lines: Iterable[bytes], *, param: str = "training_file") -> int:
    """Check every row of a supervised fine-tuning file; return how many there are.

    Each line is `{"messages": [{"role", "content"}, ...]}` with at least one assistant turn.
    Blank lines are passed over.

    Args:
        lines: The file's lines, undecoded.
        param: Name of the request's field, for the error.

    Raises:
        InvalidFileError: Names the line and what is wrong with it, or counts too few rows.
    """
    count = 0
    for number, line in enumerate(lines, start=1):
        if line.strip():
            _check_row(line, number, param)
            count += 1
    if count < LIMITS.min_training_rows:
        raise InvalidFileError(
            f"the file has {count} rows; at least {LIMITS.min_training_rows} are needed.",
            param=param,
        )
    return count


def _check_row(line: bytes, number: int, param: str) -> None:
    def refuse(what: str) -> NoReturn:
        raise InvalidFileError(f"line {number}: {what}.", param=param)

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
    except (ValueError, RecursionError):
        refuse("not valid JSON")
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        refuse('a row is an object with a list "messages"')
    messages = row["messages"]
    if not 0 < len(messages) <= LIMITS.messages:
        refuse(f'"messages" must hold 1 to {LIMITS.messages} turns')
    for place, message in enumerate(messages):
        problem = _problem(message)
        if problem:
            refuse(f"messages[{place}]: {problem}")
    if not any(m["role"] == "assistant" and m["content"] for m in messages):
        refuse("there is no assistant turn with content to learn from")


class _TwiceError(Exception):
    """A key occurs twice, and two readers could differ on its value."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
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
