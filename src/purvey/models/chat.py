"""Conversations to tokens: a model's chat template, rendered in a parse process.

What a user writes can never become a special token, nor another token that the template
writes itself (`chat_guard.py`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from purvey.contracts.chat.tools import Tool
from purvey.contracts.engine import ChatMessage
from purvey.contracts.limits import LIMITS
from purvey.contracts.parse import ChatRendered, Prefix, RenderChat
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.answer.ids import with_template_ids
from purvey.models.answer.layouts import THINKING, call_layout, marks_reasoning
from purvey.models.chat_guard import Guard
from purvey.models.folder.json_file import read_optional_object
from purvey.models.tokenizer import Tokenizer
from purvey.parse.parser import PARSER, Parser

TEMPLATE_NAME = "chat_template.jinja"
DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, for tokenizers trained here."""
PLAIN_TEMPLATE = (
    "{% if bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "### {{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
"""For a foreign tokenizer that has no tokens for turns: the end token ends an answer."""
_PROBE = "answer-0"
_MARK_TOKENS = 16
"""Tokens that a mark of reasoning and a line's end take at most."""
_PREFIXES = 32
"""Beginnings of a conversation that are rendered by one question, in the time of one."""


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """A conversation's token ids; `is_target` marks those that the model learns to produce."""

    ids: list[int]
    is_target: list[bool]


class ChatTemplate:
    """A chat template with the begin and end tokens it may print.

    Args:
        source: Jinja text.
        bos_token: Text of the begin token.
        eos_token: Text of the end token.
        parser: Compiles and renders it.

    Raises:
        InvalidCheckpointError: It does not compile.
    """

    def __init__(
        self, source: str, *, bos_token: str | None, eos_token: str | None, parser: Parser = PARSER
    ) -> None:
        self.source = source
        self.call_layout = call_layout(source)
        """How its model writes calls; None where it takes no tools."""
        self.marks_reasoning = marks_reasoning(source)
        """Whether its model sets reasoning apart."""
        self._parser = parser
        self._written = " ".join((source, bos_token or "", eos_token or ""))
        self._bos_token, self._eos_token = bos_token or "", eos_token or ""
        parser.check_template(source)

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Tokenizer) -> "ChatTemplate | None":
        """Read `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`.

        Raises:
            InvalidCheckpointError: The template is no text, too long, or does not compile.
        """
        path = folder / TEMPLATE_NAME
        if path.is_file():
            return cls.for_tokenizer(_read(path), tokenizer)
        found = read_optional_object(folder / "tokenizer_config.json").get("chat_template")
        if isinstance(found, list):
            named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
            found = named.get("default")
        return cls.for_tokenizer(found, tokenizer) if isinstance(found, str) else None

    @classmethod
    def for_tokenizer(cls, source: str, tokenizer: Tokenizer) -> "ChatTemplate":
        """Compile a template with a tokenizer's begin and end tokens."""
        template = cls(source, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token)
        tokenizer.with_control_tokens(template._written)  # built now, not in the first request
        return template

    @classmethod
    def default(cls, tokenizer: Tokenizer) -> "ChatTemplate":
        """Return ChatML where the tokenizer has its tokens, else the plain template."""
        has_turns = {"<|im_start|>", "<|im_end|>"} <= tokenizer.special_tokens.keys()
        return cls.for_tokenizer(DEFAULT_TEMPLATE if has_turns else PLAIN_TEMPLATE, tokenizer)

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool) -> str:
        """Render a conversation as `transformers` does.

        Raises:
            InvalidValueError: The template refuses the conversation, or its output is too long.
            InvalidCheckpointError: The template takes too much time or memory.
        """
        return self._rendered(messages, add_generation_prompt=add_generation_prompt).text

    def encode(
        self,
        messages: Sequence[ChatMessage],
        tokenizer: Tokenizer,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Tool] = (),
        enable_thinking: bool | None = None,
    ) -> list[int]:
        """Render and encode; control tokens inside messages and tools stay text."""
        guard = self._guard(with_template_ids(messages, self.source), tokenizer, tools)
        rendered = self._rendered(
            guard.messages,
            add_generation_prompt=add_generation_prompt,
            tools=guard.tools,
            enable_thinking=enable_thinking,
        )
        return guard.encode(rendered.text)

    def begins_reasoning(self, prompt: Sequence[int], tokenizer: Tokenizer) -> bool:
        """Tell whether a prompt ends where reasoning begins."""
        end = tokenizer.decode(prompt[-_MARK_TOKENS:], keep_special=True)
        return self.marks_reasoning and end.rstrip().endswith(THINKING[0])

    def training_rows(
        self,
        messages: Sequence[ChatMessage],
        tokenizer: Tokenizer,
        *,
        is_last_only: bool = False,
    ) -> TrainingRow:
        """Encode a conversation so that the loss falls on the assistant's turns alone.

        Every assistant turn begins exactly where generation would begin, and its target includes
        the token that ends the turn; where the template has none, the end token is added.

        Args:
            messages: The turns.
            tokenizer: The model's.
            is_last_only: Take the loss on the last of the assistant's turns alone.

        Raises:
            InvalidValueError: There is no assistant turn, or the template renders the beginning
                of the conversation differently once the answer is known.
        """
        guard = self._guard(messages, tokenizer)
        whole, spans = self._answers(guard)
        if not spans:
            message = "a conversation needs an assistant turn that the chat template keeps."
            raise InvalidValueError(message, param="messages")
        ids: list[int] = []
        is_target: list[bool] = []
        edges = list(itertools.chain([0], *spans))
        for index, (start, end) in enumerate(itertools.pairwise(edges)):
            piece = guard.encode(whole[start:end], after=ids)
            ids += piece
            is_answer = index % 2 == 1 and (not is_last_only or index == len(edges) - 2)
            is_target += [is_answer] * len(piece)
        is_ended = ids[-1] in tokenizer.eos_ids or ids[-1] == self.turn_end(tokenizer)
        if tokenizer.eos_ids and not is_ended:
            ids, is_target = [*ids, tokenizer.eos_ids[0]], [*is_target, True]
        return TrainingRow(ids=ids, is_target=is_target)

    def turn_end(self, tokenizer: Tokenizer) -> int | None:
        """Return the control token that the template writes behind an answer, if it does.

        An answer ends there, whether or not the model's configuration lists the token.
        """
        question = ChatMessage(role="user", content="question")
        answer = ChatMessage(role="assistant", content=_PROBE)
        try:
            whole = self.render([question, answer], add_generation_prompt=False)
        except InvalidValueError:
            return None
        behind = whole.rpartition(_PROBE)[2].lstrip()
        control = tokenizer.with_control_tokens(self._written)
        first = next(iter(control.split_special(behind)), None)
        return first if isinstance(first, int) else None

    def save(self, folder: Path) -> None:
        """Write `chat_template.jinja`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TEMPLATE_NAME).write_text(self.source, encoding="utf-8")

    def _guard(
        self, messages: Sequence[ChatMessage], tokenizer: Tokenizer, tools: Sequence[Tool] = ()
    ) -> Guard:
        control = tokenizer.with_control_tokens(self._written)
        return Guard(messages, control, own_tokens=tokenizer.special_tokens, tools=tools)

    def _answers(self, guard: Guard) -> tuple[str, list[tuple[int, int]]]:
        """Render a conversation; return it with start and end of every assistant turn in it."""
        turns = [i for i, message in enumerate(guard.messages) if message.role == "assistant"]
        prefixes = [
            Prefix(num_messages=turn + is_after, add_generation_prompt=not is_after)
            for turn in turns
            for is_after in (False, True)
        ]
        whole, edges = "", list[int | None]()
        for first in range(0, max(1, len(prefixes)), _PREFIXES):
            some = tuple(prefixes[first : first + _PREFIXES])
            found = self._rendered(guard.messages, add_generation_prompt=False, prefixes=some)
            whole = found.text if first == 0 else whole
            edges += found.prefix_chars
        spans = [
            (start, guard.end_of_turn(whole[:end]))
            for start, end in zip(edges[::2], edges[1::2], strict=True)
            if start is not None and end is not None
        ]
        return whole, [(start, end) for start, end in spans if start < end]

    def _rendered(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool,
        prefixes: tuple[Prefix, ...] = (),
        tools: tuple[str, ...] = (),
        enable_thinking: bool | None = None,
    ) -> ChatRendered:
        return self._parser.render(
            RenderChat(
                source=self.source,
                bos_token=self._bos_token,
                eos_token=self._eos_token,
                messages=tuple(messages),
                add_generation_prompt=add_generation_prompt,
                prefixes=prefixes,
                tools=tools,
                enable_thinking=enable_thinking,
            )
        )


def has_template(folder: Path) -> bool:
    """Tell at a glance whether a model folder seems to have a chat template."""
    config = folder / "tokenizer_config.json"
    if (folder / TEMPLATE_NAME).is_file():
        return True
    return config.is_file() and b'"chat_template"' in config.read_bytes()


def _read(path: Path) -> str:
    """Return a template's text; one that is far too long is not read whole."""
    with path.open("rb") as stream:
        data = stream.read(4 * LIMITS.template_chars + 1)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        message = f"{path.name} is too long, or not UTF-8."
        raise InvalidCheckpointError(message, param="model", hint="Write it as UTF-8.") from None
