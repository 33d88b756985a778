"""How a scripted engine obeys: its reply where it fits, else the least that does."""

import json
import re
from typing import Any

from purvey.contracts.sampling import (
    CallGrammar,
    ChoiceGrammar,
    Grammar,
    RegexGrammar,
    Sampling,
)
from purvey.errors import InvalidValueError, UnsupportedValueError

_BAN = -100


def obeying(reply: str, sampling: Sampling) -> str:
    """Return what is said instead of a reply, so that bias and grammar are obeyed.

    A bias of -100 leaves its character out; other biases and penalties change nothing here.

    Raises:
        InvalidValueError: A biased id is no character's.
        UnsupportedValueError: The reply does not match the regular expression asked for.
    """
    biased = {_checked(token_id): value for token_id, value in sampling.logit_bias}
    banned = {chr(token_id) for token_id, value in biased.items() if value == _BAN}
    said = "".join(character for character in reply if character not in banned)
    return said if sampling.grammar is None else _fitting(said, sampling.grammar)


def _checked(token_id: int) -> int:
    if not (0 <= token_id < 0xD800 or 0xE000 <= token_id < 0x110000):
        message = f"token id {token_id} is not in the vocabulary."
        raise InvalidValueError(message, param=f"logit_bias.{token_id}")
    return token_id


def _fitting(reply: str, grammar: Grammar) -> str:
    match grammar:
        case ChoiceGrammar(choices=choices):
            return reply if reply in choices else choices[0]
        case RegexGrammar(pattern=pattern):
            if re.fullmatch(pattern, reply) is None:
                message = "a scripted engine matches by its script alone."
                raise UnsupportedValueError(message, param="structured_outputs.regex")
            return reply
        case CallGrammar():
            raise UnsupportedValueError("a scripted engine calls by `tool_use`.", param="tools")
        case _:
            schema = json.loads(grammar.schema)
            return json.dumps(least(schema, schema))


def least(schema: Any, root: Any) -> Any:  # noqa: ANN401 (JSON)
    """Return the least value that a plain schema allows; combinations are read by their first."""
    if isinstance(schema, bool):
        return None
    for name in ("anyOf", "oneOf", "allOf"):
        if name in schema:
            return least(schema[name][0], root)
    if "$ref" in schema:
        found = root
        for step in schema["$ref"].split("/")[1:]:
            found = found[step]
        return least(found, root)
    if "const" in schema:
        return schema["const"]
    return schema["enum"][0] if "enum" in schema else _of_type(schema, root)


def _of_type(schema: dict[str, Any], root: Any) -> Any:  # noqa: ANN401 (JSON)
    named = schema.get("type", "null")
    match named if isinstance(named, str) else named[0]:
        case "object":
            properties = schema.get("properties", {})
            names = schema.get("required", [])
            return {name: least(properties.get(name, True), root) for name in names}
        case "array":
            return [least(schema.get("items", True), root)] * schema.get("minItems", 0)
        case "string":
            return "a" * schema.get("minLength", 0)
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case _:
            return None
