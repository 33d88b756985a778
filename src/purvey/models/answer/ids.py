"""Ids of calls as some chat templates (Mistral's) want them: nine letters or digits."""

import hashlib
import re
from collections.abc import Sequence

import msgspec

from purvey.contracts.engine import ChatMessage

_SHORT = re.compile(r"[A-Za-z0-9]{9}")
_WANTED = re.compile(r"id\s*\|\s*length\s*!=\s*9\b")


def with_template_ids(messages: Sequence[ChatMessage], template: str) -> Sequence[ChatMessage]:
    """Return the messages with ids that a template does not refuse; equal ones stay equal."""
    if not _WANTED.search(template):
        return messages
    return [_with_short_ids(message) for message in messages]


def _with_short_ids(message: ChatMessage) -> ChatMessage:
    calls = [msgspec.structs.replace(call, id=_short(call.id)) for call in message.tool_calls]
    answered = None if message.tool_call_id is None else _short(message.tool_call_id)
    return msgspec.structs.replace(message, tool_calls=tuple(calls), tool_call_id=answered)


def _short(call_id: str) -> str:
    if _SHORT.fullmatch(call_id):
        return call_id
    return hashlib.blake2b(call_id.encode(), digest_size=5).hexdigest()[:9]
