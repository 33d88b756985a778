"""Functions that a model may call, how it may, and the calls it makes."""

import msgspec


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that may be called.

    Args:
        name: Letters, digits, `_` and `-`, at most 64.
        definition: JSON text of name, description and parameters as they were given, for the
            chat template.
        schema: JSON text of the schema of its arguments, an object; only keywords that are
            enforced.
        is_strict: Whether arguments obey it even where the answer need not be a call.
    """

    name: str
    definition: str
    schema: str
    is_strict: bool = False


class ToolUse(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls an answer may make of the prompt's tools.

    Args:
        must_call: Whether the answer is calls and nothing else; enforced token by token.
        only: The one function that may be called, or None for all.
        is_parallel: Whether there may be several calls; else the first ends the answer.
    """

    must_call: bool = False
    only: str | None = None
    is_parallel: bool = True


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was made earlier in a conversation; `arguments` is JSON text of an object."""

    id: str
    name: str
    arguments: str


class CallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """News of one call.

    Args:
        index: Its place among the calls of the answer, from 0.
        name: The function, where the call begins; else None.
        arguments: What follows of the arguments' JSON text; whole characters, possibly none.
    """

    index: int
    name: str | None = None
    arguments: str = ""
