"""Messages as OpenAI's chat takes them, turned into plain turns."""

from typing import Annotated, Literal

from pydantic import Field

from purvey.contracts.engine import ChatMessage
from purvey.contracts.limits import LIMITS
from purvey.errors import ContextLengthError, UnsupportedValueError
from purvey.server.validation import FIRST_PROBLEM, Body

NAMES_WHAT_IT_IS = ("text", "refusal", "image_url", "input_audio", "file")
PartType = Literal["text", "refusal", "image_url", "input_audio", "file"]


class ContentPart(Body):
    """One part of a message. Only `text` is supported so far."""

    type: PartType
    text: str | None = None
    refusal: object = Field(None, description="Not supported.")
    image_url: object = Field(None, description="Not supported by chat yet; see /v1/classify.")
    input_audio: object = Field(None, description="Not supported yet.")
    file: object = Field(None, description="Not supported yet.")
    prompt_cache_breakpoint: object = Field(None, description="Accepted and ignored.")


class Message(Body):
    """One turn. `developer` is read as `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[ContentPart], FIRST_PROBLEM] | None = None
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    refusal: str | None = Field(
        None, description="Only null: accepted so that an answer can be sent back as it came."
    )
    annotations: object = Field(None, description="Accepted and ignored.")
    audio: object = Field(None, description="Only null is supported.")
    function_call: object = Field(None, description="Only null is supported.")
    tool_calls: object = Field(None, description="Only null or an empty list is supported.")
    tool_call_id: str | None = Field(None, description="Not supported yet.")


def turns(messages: list[Message]) -> tuple[ChatMessage, ...]:
    """Turn messages into plain turns.

    Raises:
        UnsupportedValueError: A message holds what chat does not support yet.
        ContextLengthError: Together they exceed every limit, before any tokenisation.
    """
    plain = tuple(_turn(message, f"messages.{i}") for i, message in enumerate(messages))
    total = sum(len(turn.content) for turn in plain)
    if total > LIMITS.prompt_chars:
        raise ContextLengthError(
            f"the messages have {total} characters; at most {LIMITS.prompt_chars} are read.",
            param="messages",
        )
    return plain


def _turn(message: Message, at: str) -> ChatMessage:
    if message.role in {"tool", "function"}:
        raise _unsupported(f"{at}.role", "tool results are not supported yet.")
    for name in ("audio", "function_call", "tool_calls", "tool_call_id", "refusal"):
        if getattr(message, name) not in (None, []):
            raise _unsupported(f"{at}.{name}", f"{name!r} is not supported yet.")
    role = "system" if message.role == "developer" else message.role
    assert role != "tool" and role != "function", "refused above"  # noqa: S101, PT018
    return ChatMessage(role=role, content=_text(message, at), name=message.name)


def _text(message: Message, at: str) -> str:
    if isinstance(message.content, str):
        return message.content
    if message.content is None:
        raise _unsupported(f"{at}.content", "a message must have content.")
    return "".join(_part_text(part, f"{at}.content.{i}") for i, part in enumerate(message.content))


def _part_text(part: ContentPart, at: str) -> str:
    if part.type != "text":
        raise _unsupported(f"{at}.type", f"parts of type {part.type!r} are not supported yet.")
    if part.text is None:
        raise _unsupported(f"{at}.text", "a text part must have a text.")
    return part.text


def _unsupported(param: str, message: str) -> UnsupportedValueError:
    return UnsupportedValueError(message, param=param)
