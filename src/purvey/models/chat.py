"""Conversations to tokens: a model's chat template, in an immutable sandbox.

What a user writes can never become a special token, nor another token that the template
writes itself (`chat_guard.py`).
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from purvey.contracts.engine import ChatMessage
from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.chat_guard import Guard
from purvey.models.folder.json_file import read_optional_object
from purvey.models.tokenizer import Tokenizer

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
_MAX_RENDERED_CHARS = 2 * LIMITS.prompt_chars


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
    """

    def __init__(self, source: str, *, bos_token: str | None, eos_token: str | None) -> None:
        self.source = source
        self._written = " ".join((source, bos_token or "", eos_token or ""))
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            message = f"the chat template is not usable: {error}."
            raise InvalidCheckpointError(message, param="model") from None

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Tokenizer) -> "ChatTemplate | None":
        """Read `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`.

        Raises:
            InvalidCheckpointError: The template does not compile.
        """
        path = folder / TEMPLATE_NAME
        if path.is_file():
            if path.stat().st_size > LIMITS.row_bytes:
                raise InvalidCheckpointError(f"{TEMPLATE_NAME} is too large.", param="model")
            return cls.for_tokenizer(path.read_text(encoding="utf-8"), tokenizer)
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
        """
        plain = [_as_dict(message) for message in messages]
        try:
            stream = self._template.generate(
                messages=plain,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._tokens,
            )
            return _join(stream)
        except (jinja2.TemplateError, TypeError, ValueError, OverflowError) as error:
            message = f"the model's chat template refuses the conversation: {str(error)[:200]}."
            raise InvalidValueError(message, param="messages") from None

    def encode(
        self,
        messages: Sequence[ChatMessage],
        tokenizer: Tokenizer,
        *,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Render and encode; control tokens inside messages stay text."""
        guard = self._guard(messages, tokenizer)
        text = self.render(guard.messages, add_generation_prompt=add_generation_prompt)
        return guard.encode(text)

    def training_rows(self, messages: Sequence[ChatMessage], tokenizer: Tokenizer) -> TrainingRow:
        """Encode a conversation so that the loss falls on the assistant's turns alone.

        Every assistant turn begins exactly where generation would begin, and its target includes
        the token that ends the turn; where the template has none, the end token is added.

        Raises:
            InvalidValueError: There is no assistant turn, or the template renders the beginning
                of the conversation differently once the answer is known.
        """
        guard = self._guard(messages, tokenizer)
        whole = self.render(guard.messages, add_generation_prompt=False)
        spans = self._answers(guard, whole)
        if not spans:
            message = "a conversation needs an assistant turn that the chat template keeps."
            raise InvalidValueError(message, param="messages")
        ids: list[int] = []
        is_target: list[bool] = []
        edges = list(itertools.chain([0], *spans))
        for index, (start, end) in enumerate(itertools.pairwise(edges)):
            piece = guard.encode(whole[start:end], after=ids)
            ids += piece
            is_target += [index % 2 == 1] * len(piece)
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

    def _guard(self, messages: Sequence[ChatMessage], tokenizer: Tokenizer) -> Guard:
        control = tokenizer.with_control_tokens(self._written)
        return Guard(messages, control, own_tokens=tokenizer.special_tokens)

    def _answers(self, guard: Guard, whole: str) -> list[tuple[int, int]]:
        """Find start and end of every assistant turn in the rendered conversation."""
        spans = []
        for index, message in enumerate(guard.messages):
            if message.role != "assistant":
                continue
            before = self.render(guard.messages[:index], add_generation_prompt=True)
            after = self.render(guard.messages[: index + 1], add_generation_prompt=False)
            if whole.startswith(before) and whole.startswith(after):
                spans.append((len(before), guard.end_of_turn(after)))
        return [(start, end) for start, end in spans if start < end]


class _Generation(Extension):
    """`{% generation %}` marks answers for other tools; the text inside is printed as it is."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the marked statements themselves."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, in which text and lists cannot be multiplied into gigabytes."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: object, right: object
    ) -> object:
        """Allow products of numbers only; templates have no use for others."""
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or not numbers:
            raise jinja2.exceptions.SecurityError(f"{operator!r} is not allowed here")
        product: object = super().call_binop(context, operator, left, right)
        return product


def _environment() -> jinja2.Environment:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 (the signature templates expect)
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _as_dict(message: ChatMessage) -> dict[str, Any]:
    named = {} if message.name is None else {"name": message.name}
    return {"role": message.role, "content": message.content, **named}


def _join(stream: Any) -> str:  # noqa: ANN401 (jinja2's untyped iterator of strings)
    pieces, num_chars = [], 0
    for piece in stream:
        num_chars += len(piece)
        if num_chars > _MAX_RENDERED_CHARS:
            raise ValueError("its output is too long")
        pieces.append(piece)
    return "".join(pieces)
