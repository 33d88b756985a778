"""Chat templates in Jinja's immutable sandbox: compiled and rendered, never trusted.

The sandbox keeps a template from Python's insides; it does not keep it from filling memory or
running on. That is for the process around it, so this module runs in parse processes alone.
"""

import html  # noqa: F401 (the filter `striptags` imports it, when no file can be opened)
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from purvey.contracts.engine import ChatMessage
from purvey.contracts.limits import LIMITS
from purvey.contracts.parse import ChatRendered, RenderChat
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.parse.foreign import FOREIGN_ERRORS, reason


@lru_cache(maxsize=2)
def compiled(source: str) -> jinja2.Template:
    """Compile a template.

    Raises:
        InvalidCheckpointError: It is not one that the sandbox accepts.
    """
    try:
        return _environment().from_string(source)
    except (jinja2.TemplateError, *FOREIGN_ERRORS) as error:
        message = f"the chat template is not usable: {reason(error)}."
        raise InvalidCheckpointError(message, param="model") from None


def render(question: RenderChat) -> ChatRendered:
    """Render a conversation as `transformers` does, and its beginnings.

    Raises:
        InvalidCheckpointError: The template does not compile.
        InvalidValueError: The template refuses the conversation, or its output is too long.
    """
    template = compiled(question.source)
    tokens = {"bos_token": question.bos_token, "eos_token": question.eos_token}
    tools = [_as_tool(definition) for definition in question.tools] or None
    thinking = question.enable_thinking
    switches = {} if thinking is None else {"enable_thinking": thinking}

    def rendered(messages: Sequence[ChatMessage], *, add_generation_prompt: bool) -> str:
        pieces = template.generate(
            messages=[_as_dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            documents=None,
            **switches,
            **tokens,
        )
        return _joined(pieces)

    def prefix_chars(num_messages: int, *, add_generation_prompt: bool) -> int | None:
        start = rendered(
            question.messages[:num_messages], add_generation_prompt=add_generation_prompt
        )
        return len(start) if text.startswith(start) else None

    try:
        text = rendered(question.messages, add_generation_prompt=question.add_generation_prompt)
        text.encode("utf-8")  # half of a surrogate pair could not travel on
        found = tuple(
            prefix_chars(prefix.num_messages, add_generation_prompt=prefix.add_generation_prompt)
            for prefix in question.prefixes
        )
    except (jinja2.TemplateError, *FOREIGN_ERRORS) as error:
        message = f"the model's chat template refuses the conversation: {reason(error)}."
        raise InvalidValueError(message, param="messages") from None
    return ChatRendered(text=text, prefix_chars=found)


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
    del environment.globals["lipsum"]  # random text of any length
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


def _as_dict(message: ChatMessage) -> dict[str, Any]:  # the values that templates read
    """Return a turn as templates know it: arguments of calls are objects, not texts."""
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": json.loads(call.arguments)},
        }
        for call in message.tool_calls
    ]
    others = {
        "name": message.name,
        "tool_calls": calls or None,
        "tool_call_id": message.tool_call_id,
        "reasoning_content": message.reasoning,
    }
    given = {name: value for name, value in others.items() if value is not None}
    return {"role": message.role, "content": message.content, **given}


def _as_tool(definition: str) -> dict[str, Any]:  # the values that templates read
    return {"type": "function", "function": json.loads(definition)}


def _joined(stream: Iterator[str]) -> str:
    pieces, num_chars = [], 0
    for piece in stream:
        num_chars += len(piece)
        if num_chars > LIMITS.rendered_chars:
            message = f"its output has more than {LIMITS.rendered_chars} characters"
            raise ValueError(message)
        pieces.append(piece)
    return "".join(pieces)
