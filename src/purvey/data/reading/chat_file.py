"""A fine-tuning file in OpenAI's chat format: one conversation per line."""

from pathlib import Path

from purvey.data.conversations import Conversation, UnfitConversationError, as_conversation
from purvey.data.reading.jsonl import parse_object
from purvey.data.reading.plain_text import lines_of, read_utf8
from purvey.data.reading.table import check_row_count, row_error


def read_chat_file(path: Path, *, source: str) -> list[Conversation]:
    """Read the conversations of a file; other keys beside `messages` are not used.

    Raises:
        InvalidFileError: Names the line and what is wrong with it.
    """
    conversations: list[Conversation] = []
    for line, text in enumerate(lines_of(read_utf8(path, source=source)), start=1):
        if not text.strip():
            continue
        row = parse_object(text, source=source, line=line)
        try:
            conversations.append(as_conversation(row.get("messages")))
        except UnfitConversationError as error:
            raise row_error(source, line, f'"messages" {error}.') from None
        check_row_count(source, len(conversations))  # at once: what is refused is not even held
    check_row_count(source, len(conversations))
    return conversations
