"""Preferences as training rows: a prompt with a better and a worse answer, in OpenAI's shape."""

import json
from dataclasses import dataclass

from purvey.contracts.engine import ChatMessage
from purvey.contracts.rows import ANSWERS, PROMPT
from purvey.data.conversations import Conversation, UnfitConversationError, as_turns


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A prompt and two answers to it.

    Args:
        prompt: The turns before the answer, at least one.
        preferred: The better answer, an assistant's turn.
        rejected: The worse one; never equal to the better.
    """

    prompt: Conversation
    preferred: ChatMessage
    rejected: ChatMessage

    def as_json(self) -> str:
        """Return the text that `as_preference` reads back."""
        row = {
            PROMPT: {"messages": [_plain(turn) for turn in self.prompt]},
            ANSWERS[0]: [_plain(self.preferred)],
            ANSWERS[1]: [_plain(self.rejected)],
        }
        return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def as_preference(row: object) -> Preference:
    """Check a row and return it typed; keys beside the three are not used.

    Raises:
        UnfitConversationError: Says what is wrong; the message continues "column 'x' ...".
    """
    if not isinstance(row, dict) or not isinstance(row.get(PROMPT), dict):
        msg = f'is not an object with "{PROMPT}", "{ANSWERS[0]}" and "{ANSWERS[1]}"'
        raise UnfitConversationError(msg)
    preferred, rejected = (_answer(row.get(name), name) for name in ANSWERS)
    if preferred.content == rejected.content:
        raise UnfitConversationError("has two equal answers: there is nothing to prefer")
    prompt = as_turns(row[PROMPT].get("messages"))
    return Preference(prompt=prompt, preferred=preferred, rejected=rejected)


def _answer(messages: object, name: str) -> ChatMessage:
    if not isinstance(messages, list) or len(messages) != 1:
        raise UnfitConversationError(f'has no "{name}" with exactly one message')
    (turn,) = as_turns(messages)
    if turn.role != "assistant" or not turn.content:
        raise UnfitConversationError(f'has a "{name}" that is no assistant message with content')
    return turn


def _plain(turn: ChatMessage) -> dict[str, object]:
    return {"role": turn.role, "content": turn.content}
