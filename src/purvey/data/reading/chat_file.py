"""A fine-tuning file in OpenAI's formats: one conversation, or one preference, per line."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from purvey.contracts.files.problems import Problems, UnusableRowError
from purvey.data.conversations import Conversation, UnfitConversationError, as_conversation
from purvey.data.preferences import Preference, as_preference
from purvey.data.reading.jsonl import parse_object
from purvey.data.reading.plain_text import lines_of, read_utf8
from purvey.data.reading.table import check_row_count

_Kept = TypeVar("_Kept")


def read_chat_file(path: Path, *, source: str) -> list[Conversation]:
    """Read the conversations of a file; other keys beside `messages` are not used.

    Raises:
        InvalidFileError: Names the first bad lines and what is wrong with each.
    """
    return list(
        _rows(path, lambda row: as_conversation(row.get("messages")), '"messages"', source=source)
    )


def read_preference_file(path: Path, *, source: str) -> list[Preference]:
    """Read the preferences of a file; other keys beside the three are not used.

    Raises:
        InvalidFileError: Names the first bad lines and what is wrong with each.
    """
    return list(_rows(path, as_preference, "the row", source=source))


def _rows(
    path: Path, convert: Callable[[dict[str, Any]], _Kept], what: str, *, source: str
) -> Iterator[_Kept]:
    count = 0
    problems = Problems(source=source)
    for line, text in enumerate(lines_of(read_utf8(path, source=source)), start=1):
        if not text.strip():
            continue
        try:
            yield convert(parse_object(text))
        except UnusableRowError as error:
            problems.add(line, str(error))
        except UnfitConversationError as error:
            problems.add(line, f"{what} {error}")
        count += 1
        check_row_count(source, count)  # at once: what is refused is not even held
    problems.check()
    check_row_count(source, count)
