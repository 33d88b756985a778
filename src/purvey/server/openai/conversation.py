"""Messages as OpenAI's chat takes them, turned into plain turns."""

from typing import Annotated, Literal

import msgspec
from pydantic import Field

from purvey.contracts.chat.tools import ToolCall
from purvey.contracts.engine import ChatMessage
from purvey.contracts.limits import LIMITS
from purvey.errors import (
    ContextLengthError,
    InvalidJSONError,
    InvalidValueError,
    UnsupportedValueError,
)
from purvey.server import strict_json
from purvey.server.openai.calling.tools import FunctionName
from purvey.server.validation import FIRST_PROBLEM, Body

NAMES_WHAT_IT_IS = ("text", "refusal", "image_url", "input_audio", "file")
PartType = Literal["text", "refusal", "image_url", "input_audio", "file"]
CallId = Annotated[str, Field(min_length=1, max_length=128)]


class ImagePart(Body):
    """Where an image is: models see it at their own size, whatever `detail` says."""

    url: str = Field(
        description="A base64 data URL, the id of an uploaded file, or an https:// address of a "
        "host that the operator allows."
    )
    detail: Literal["auto", "low", "high"] | None = Field(None, description="Accepted and ignored.")


class ContentPart(Body):
    """One part of a message: text, or for a model that sees, in a user's message, an image."""

    type: PartType
    text: str | None = None
    refusal: object = Field(None, description="Not supported.")
    image_url: ImagePart | None = Field(
        None, description="For models of the task image-text-to-text, which have learned so many."
    )
    input_audio: object = Field(None, description="Not supported yet.")
    file: object = Field(None, description="Not supported yet.")
    prompt_cache_breakpoint: object = Field(None, description="Accepted and ignored.")


class CalledFunction(Body):
    """What was called."""

    name: FunctionName
    arguments: Annotated[str, Field(max_length=LIMITS.prompt_chars)] = Field(
        description="JSON text of an object."
    )


class MessageCall(Body):
    """A call that the model has made."""

    id: CallId
    type: Literal["function"]
    function: CalledFunction


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
    tool_calls: Annotated[list[MessageCall], Field(max_length=LIMITS.tool_calls)] | None = Field(
        None, description="Calls that the assistant has made; content may then be null."
    )
    tool_call_id: CallId | None = Field(
        None, description="Which of the calls before a `tool` message answers."
    )
    reasoning_content: str | None = Field(
        None, description="Not OpenAI's. What the assistant thought, as an answer told it."
    )


def turns(messages: list[Message], *, has_images: bool = False) -> tuple[ChatMessage, ...]:
    """Turn messages into plain turns.

    Args:
        messages: As the request has them.
        has_images: Whether image parts are read by somebody else, and no part of the text.

    Raises:
        UnsupportedValueError: A message holds what chat does not support yet.
        InvalidValueError: A tool's message answers no call, or a call is not written right.
        ContextLengthError: Together they exceed every limit, before any tokenisation.
    """
    plain: list[ChatMessage] = []
    known: set[str] = set()
    for i, message in enumerate(messages):
        plain.append(_turn(message, f"messages.{i}", known, has_images=has_images))
        known.update(call.id for call in plain[-1].tool_calls)
    total = sum(map(_num_chars, plain))
    if total > LIMITS.prompt_chars:
        raise ContextLengthError(
            f"the messages have {total} characters; at most {LIMITS.prompt_chars} are read.",
            param="messages",
        )
    return tuple(plain)


def _num_chars(turn: ChatMessage) -> int:
    calls = sum(len(call.arguments) for call in turn.tool_calls)
    return len(turn.content) + len(turn.reasoning or "") + calls


def _turn(message: Message, at: str, known: set[str], *, has_images: bool) -> ChatMessage:
    """Turn one message into a plain turn; `known` are the ids of the calls before it."""
    for name in ("audio", "function_call", "refusal"):
        if getattr(message, name) not in (None, []):
            raise _unsupported(f"{at}.{name}", f"{name!r} is not supported yet.")
    role = "system" if message.role == "developer" else message.role
    if role == "function":
        raise _unsupported(f"{at}.role", "use the role 'tool' with a tool_call_id.")
    _check_belongings(message, at, known)
    return ChatMessage(
        role=role,
        content=_text(message, at, has_images=has_images),
        name=message.name,
        tool_calls=tuple(
            _call(call, f"{at}.tool_calls.{i}.function.arguments")
            for i, call in enumerate(message.tool_calls or ())
        ),
        tool_call_id=message.tool_call_id,
        reasoning=message.reasoning_content,
    )


def _check_belongings(message: Message, at: str, known: set[str]) -> None:
    """Make sure that only an assistant calls, and that only a tool answers, a call there was."""
    for name in ("tool_calls", "reasoning_content"):
        if getattr(message, name) and message.role != "assistant":
            raise InvalidValueError(f"{name} belong to an assistant.", param=f"{at}.{name}")
    ids = [call.id for call in message.tool_calls or ()]
    if len({*ids} - known) != len(ids):
        raise InvalidValueError("two calls have the same id.", param=f"{at}.tool_calls")
    if (message.role == "tool") != (message.tool_call_id is not None):
        raise InvalidValueError(
            "tool_call_id belongs to a message of the role 'tool', and to no other.",
            param=f"{at}.tool_call_id",
        )
    if message.tool_call_id is not None and message.tool_call_id not in known:
        raise InvalidValueError(
            "no call before has this id.",
            param=f"{at}.tool_call_id",
            hint="Send the assistant's message with its tool_calls, too.",
        )


def _call(call: MessageCall, at: str) -> ToolCall:
    """Turn a call into a plain one; its arguments are written anew, without escapes."""
    try:
        value = strict_json.loads(call.function.arguments.encode())
    except InvalidJSONError as error:
        message = f"the arguments are not JSON: {error.message}"
        raise InvalidValueError(message, param=at) from None
    if not isinstance(value, dict):
        raise InvalidValueError("the arguments must be an object.", param=at)
    arguments = msgspec.json.encode(value).decode()
    return ToolCall(id=call.id, name=call.function.name, arguments=arguments)


def _text(message: Message, at: str, *, has_images: bool) -> str:
    if isinstance(message.content, str):
        return message.content
    if message.content is None:
        if message.tool_calls:
            return ""
        raise _unsupported(f"{at}.content", "a message must have content.")
    return "".join(
        _part_text(part, f"{at}.content.{i}")
        for i, part in enumerate(message.content)
        if not (has_images and part.type == "image_url")
    )


def _part_text(part: ContentPart, at: str) -> str:
    if part.type != "text":
        raise _unsupported(f"{at}.type", f"parts of type {part.type!r} are not supported yet.")
    if part.text is None:
        raise _unsupported(f"{at}.text", "a text part must have a text.")
    return part.text


def _unsupported(param: str, message: str) -> UnsupportedValueError:
    return UnsupportedValueError(message, param=param)
