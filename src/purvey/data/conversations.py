"""Conversations as training rows: a list of messages with at least one assistant turn."""

from collections.abc import Sequence

import msgspec

from purvey.contracts.engine import ChatMessage
from purvey.contracts.limits import LIMITS
from purvey.contracts.rows import ROLES

Conversation = tuple[ChatMessage, ...]


class UnfitConversationError(ValueError):
    """A row holds no usable conversation; the message continues "column 'x' ..."."""


def as_conversation(messages: object) -> Conversation:
    """Check a list of messages that holds an answer to learn from, and return it typed.

    Raises:
        UnfitConversationError: Says which message is wrong, and how.
    """
    turns = as_turns(messages)
    if not any(turn.role == "assistant" and turn.content for turn in turns):
        raise UnfitConversationError("has no assistant message with content to learn from")
    return turns


def num_asked(roles: Sequence[str]) -> int:
    """Return how many turns of a conversation ask: those before its last answer.

    All of them, where no user says anything there.
    """
    last = max(place for place, role in enumerate(roles) if role == "assistant")
    return last if "user" in roles[:last] else len(roles)


def as_turns(messages: object) -> Conversation:
    """Check a list of messages and return it typed; `developer` is called `system`.

    Other keys of a message are not used.

    Raises:
        UnfitConversationError: Says which message is wrong, and how.
    """
    if not isinstance(messages, list) or not messages:
        raise UnfitConversationError("is not a list of messages")
    if len(messages) > LIMITS.messages:
        raise UnfitConversationError(f"has more than {LIMITS.messages} messages")
    return tuple(_turn(message, index) for index, message in enumerate(messages))


def _turn(message: object, index: int) -> ChatMessage:
    if not isinstance(message, dict):
        raise UnfitConversationError(f"has a message {index} that is not an object")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise UnfitConversationError(
            f"has a message {index} whose role is not one of {', '.join(ROLES)}"
        )
    if not isinstance(content, str):
        raise UnfitConversationError(f"has a message {index} whose content is not a string")
    plain = {"role": "system" if role == "developer" else role, "content": content}
    return msgspec.convert(plain, ChatMessage)
