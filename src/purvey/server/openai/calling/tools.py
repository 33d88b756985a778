"""`tools` and `tool_choice` as OpenAI's chat has them, checked before any model sees them."""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from purvey.contracts.chat.tools import Tool, ToolUse
from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidSchemaError, InvalidValueError
from purvey.server.openai.structured.schema_keywords import enforceable
from purvey.server.validation import Body, FreeForm

FunctionName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class FunctionDefinition(Body):
    """What a function is called, does and takes."""

    name: FunctionName
    description: str | None = None
    parameters: FreeForm | None = Field(
        None, description="JSON schema of an object; no arguments unless given."
    )
    strict: bool | None = Field(
        None,
        description="Whether arguments obey the schema when the model calls of its own accord; "
        "where tool_choice demands a call they do, whatever this says.",
    )


class FunctionTool(Body):
    """A function that may be called."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Body):
    """The function's name."""

    name: FunctionName


class NamedChoice(Body):
    """The one function that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedChoice
Tools = Annotated[list[FunctionTool], Field(max_length=LIMITS.tools)]


def tools_of(
    tools: list[FunctionTool] | None, choice: ToolChoice | None, *, is_parallel: bool
) -> tuple[tuple[Tool, ...], ToolUse | None]:
    """Return the functions that a model is told of, and which calls it may make.

    Under `none` it is told of no function.

    Raises:
        InvalidValueError: A name is given twice, or the choice names no tool.
        InvalidSchemaError: A function's parameters are no schema that is enforced here.
    """
    known = _known(tools or [])
    only = choice.function.name if isinstance(choice, NamedChoice) else None
    if only is not None and only not in known:
        raise InvalidValueError(f"no tool is called {only!r}.", param="tool_choice.function.name")
    if choice == "required" and not known:
        raise InvalidValueError("'required' needs tools to choose from.", param="tool_choice")
    if choice == "none" or not known:
        return (), None
    must_call = choice == "required" or only is not None
    use = ToolUse(must_call=must_call, only=only, is_parallel=is_parallel)
    return tuple(known.values()), use


def _known(tools: list[FunctionTool]) -> dict[str, Tool]:
    known: dict[str, Tool] = {}
    num_chars = 0
    for i, tool in enumerate(tools):
        name, at = tool.function.name, f"tools.{i}.function"
        if name in known:
            raise InvalidValueError(f"two tools are called {name!r}.", param=f"{at}.name")
        known[name] = _tool(tool.function, at)
        num_chars += len(known[name].definition)
        if num_chars > LIMITS.tools_chars:
            message = f"the tools have more than {LIMITS.tools_chars} characters together."
            raise InvalidValueError(message, param="tools", hint="Give fewer, or shorter ones.")
    return known


def _tool(function: FunctionDefinition, at: str) -> Tool:
    given = {
        "name": function.name,
        "description": function.description,
        "parameters": function.parameters,
    }
    definition = {name: value for name, value in given.items() if value is not None}
    return Tool(
        name=function.name,
        definition=msgspec.json.encode(definition).decode(),
        schema=_arguments(function.parameters, f"{at}.parameters"),
        is_strict=bool(function.strict),
    )


def _arguments(parameters: dict[str, Any] | None, at: str) -> str:
    """Return the schema that arguments are held to; they are always an object."""
    if parameters is None:
        parameters = NO_ARGUMENTS
    if parameters.get("type", "object") != "object":
        raise InvalidSchemaError(
            "arguments are an object: the type must be 'object'.", param=f"{at}.type"
        )
    if combined := {"$ref", "anyOf", "oneOf", "allOf", "enum", "const"} & parameters.keys():
        raise InvalidSchemaError(
            "parameters must be a plain object at their root.",
            param=f"{at}.{min(combined)}",
            hint="List the arguments as properties.",
        )
    return enforceable({"type": "object", **parameters}, at)
