"""Conversations as training rows: a list of messages with at least one assistant turn."""

from purvey.contracts.limits import LIMITS
from purvey.data.table import Cell

ROLES = ("system", "user", "assistant", "tool")


def check_messages(cell: Cell) -> list[dict[str, str]]:
    """Return the messages as role and content only.

    Raises:
        ValueError: Says which message is wrong, and how.
    """
    if not isinstance(cell, list) or not cell:
        msg = "is not a list of messages"
        raise ValueError(msg)
    if len(cell) > LIMITS.messages:
        msg = f"has more than {LIMITS.messages} messages"
        raise ValueError(msg)
    messages = [_check_message(message, index) for index, message in enumerate(cell)]
    if not any(message["role"] == "assistant" for message in messages):
        msg = "has no assistant message to learn from"
        raise ValueError(msg)
    return messages


def _check_message(message: object, index: int) -> dict[str, str]:
    if not isinstance(message, dict):
        msg = f"has a message {index} that is not an object"
        raise ValueError(msg)  # noqa: TRY004 (a bad row, not a bad call)
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        msg = f"has a message {index} whose role is not one of {list(ROLES)}"
        raise ValueError(msg)
    if not isinstance(content, str) or not content:
        msg = f"has a message {index} whose content is not a non-empty string"
        raise ValueError(msg)
    return {"role": role, "content": content}
