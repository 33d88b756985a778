"""What a message says stays text: control tokens inside it are broken before rendering.

A noncharacter goes into the text of every control token that a message holds. Only unbroken
ones, which the chat template itself wrote, are recognised afterwards; then the noncharacter is
taken out again.
"""

from collections.abc import Collection, Sequence

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

    Raises:
        InvalidValueError: The messages hold every character that could break a token.
    """

    def __init__(
        self, messages: Sequence[ChatMessage], tokenizer: Tokenizer, *, own_tokens: Collection[str]
    ) -> None:
        text = "".join(message.content + (message.name or "") for message in messages)
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
        name = None if message.name is None else self._break_in(message.name, self._found)
        content = self._break_in(message.content, tokens)
        return ChatMessage(role=message.role, content=content, name=name)

    def _break_in(self, text: str, tokens: Sequence[str]) -> str:
        for token in tokens:
            text = text.replace(token, token[:1] + self._break + token[1:])
        # A template may print the next message right behind this one.
        return text + self._break if text.endswith(self._beginnings) else text
