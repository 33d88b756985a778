"""What a message says stays text: control tokens inside it are broken before rendering.

A noncharacter goes into the text of every control token that a message holds. Only unbroken
ones, which the chat template itself wrote, are recognised afterwards; then the noncharacter is
taken out again.
"""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from purvey.contracts.chat.tools import Tool, ToolCall
from purvey.contracts.engine import ChatMessage
from purvey.errors import InvalidValueError
from purvey.models.tokenizer import Tokenizer

_BREAKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # noncharacters: never text


class Guard:
    """Messages whose control tokens are broken, and the way back.

    In an assistant's turns only the tokenizer's own special tokens are broken: others, such as
    `<think>`, are what a model writes, and a template may look for them.

    Args:
        messages: The conversation.
        tokenizer: Its special tokens are all control tokens.
        own_tokens: Those of them that are special whatever the template.
        tools: Functions that may be called.

    Raises:
        InvalidValueError: The messages hold every character that could break a token.
    """

    def __init__(
        self,
        messages: Sequence[ChatMessage],
        tokenizer: Tokenizer,
        *,
        own_tokens: Collection[str],
        tools: Sequence[Tool] = (),
    ) -> None:
        text = "".join(part for message in messages for part in _texts(message))
        text += "".join(tool.definition for tool in tools)
        free = [character for character in _BREAKS if character not in text]
        if not free:
            raise InvalidValueError("messages hold too many noncharacters.", param="messages")
        self._break, self._tokenizer = free[0], tokenizer
        control = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._found = [token for token in control if token in text]
        self._found_own = [token for token in self._found if token in own_tokens]
        self._all = tuple(control)
        self._beginnings = tuple(
            {token[:size] for token in control for size in range(1, len(token))}
        )
        self.messages = [self._broken(message) for message in messages]
        self.tools = tuple(self._broken_json(tool.definition) for tool in tools)

    def encode(self, rendered: str, *, after: Sequence[int] = ()) -> list[int]:
        """Encode rendered text: unbroken control tokens are tokens, broken ones text.

        `after` are the ids of the rendered text before it.
        """
        pieces = [
            piece if isinstance(piece, int) else piece.replace(self._break, "")
            for piece in self._tokenizer.split_special(rendered)
        ]
        return self._tokenizer.encode_pieces(pieces, after=after)

    def end_of_turn(self, rendered: str) -> int:
        """Return where a turn ends: behind its last control token, if it closes with one."""
        trimmed = rendered.rstrip()
        return len(trimmed) if trimmed.endswith(self._all) else len(rendered)

    def _broken(self, message: ChatMessage) -> ChatMessage:
        tokens = self._found_own if message.role == "assistant" else self._found
        return ChatMessage(
            role=message.role,
            content=self._break_in(message.content, tokens),
            name=self._broken_or_none(message.name, self._found),
            tool_calls=tuple(self._broken_call(call) for call in message.tool_calls),
            tool_call_id=self._broken_or_none(message.tool_call_id, self._found),
            reasoning=self._broken_or_none(message.reasoning, self._found),
        )

    def _broken_or_none(self, text: str | None, tokens: Sequence[str]) -> str | None:
        return None if text is None else self._break_in(text, tokens)

    def _broken_call(self, call: ToolCall) -> ToolCall:
        return ToolCall(
            id=self._break_in(call.id, self._found),
            name=self._break_in(call.name, self._found),
            arguments=self._broken_json(call.arguments),
        )

    def _broken_json(self, text: str) -> str:
        """Break control tokens in every string of JSON text, names included."""
        return msgspec.json.encode(self._broken_value(msgspec.json.decode(text))).decode()

    def _broken_value(self, value: Any) -> Any:  # noqa: ANN401 (JSON)
        if isinstance(value, str):
            return self._break_in(value, self._found)
        if isinstance(value, list):
            return [self._broken_value(item) for item in value]
        if isinstance(value, dict):
            items = value.items()
            return {self._break_in(k, self._found): self._broken_value(v) for k, v in items}
        return value

    def _break_in(self, text: str, tokens: Sequence[str]) -> str:
        for token in tokens:
            text = text.replace(token, token[:1] + self._break + token[1:])
        # A template may print the next message right behind this one.
        return text + self._break if text.endswith(self._beginnings) else text


def _texts(message: ChatMessage) -> list[str]:
    """List all that a message says."""
    calls = [part for call in message.tool_calls for part in (call.id, call.name, call.arguments)]
    others = (message.name, message.tool_call_id, message.reasoning)
    return [message.content, *calls, *(text for text in others if text is not None)]
