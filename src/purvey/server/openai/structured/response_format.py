"""`response_format` as OpenAI has it, and `structured_outputs` as users of vLLM know it."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from purvey.contracts.limits import LIMITS
from purvey.contracts.sampling import ChoiceGrammar, Grammar, JsonGrammar, RegexGrammar
from purvey.errors import InvalidSchemaError, InvalidValueError
from purvey.server.openai.structured.regex_size import check_regex
from purvey.server.openai.structured.schema_keywords import enforceable
from purvey.server.validation import FIRST_PROBLEM, Body, FreeForm

ANY_OBJECT = JsonGrammar(schema='{"type":"object"}')
SCHEMA = "response_format.json_schema.schema"


class JsonSchemaFormat(Body):
    """A JSON schema and its name."""

    model_config = ConfigDict(validate_by_name=False, serialize_by_alias=True)

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
    description: str | None = Field(None, description="Accepted and ignored.")
    given: FreeForm | None = Field(None, alias="schema", description="Any object unless given.")
    strict: bool | None = Field(
        None, description="Accepted: the schema is enforced whatever this says."
    )


class ResponseFormat(Body):
    """What the answer must look like; enforced token by token."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Body):
    """Not OpenAI's: exactly one of these is what the whole output must look like."""

    regex: Annotated[str, Field(min_length=1, max_length=LIMITS.regex_chars)] | None = None
    choice: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=LIMITS.literal_chars)]],
            Field(min_length=1, max_length=LIMITS.output_choices),
            FIRST_PROBLEM,
        ]
        | None
    ) = None


def grammar_of(
    response_format: ResponseFormat | None, structured: StructuredOutputs | None
) -> Grammar | None:
    """Turn what a request asks for into a grammar, or None for plain text.

    Raises:
        InvalidValueError: The fields contradict each other.
        InvalidSchemaError: A schema or an expression is not one that is enforced here.
    """
    by_format = None if response_format is None else _by_format(response_format)
    by_extra = None if structured is None else _by_extra(structured)
    if by_format is not None and by_extra is not None:
        raise InvalidValueError(
            "give either response_format or structured_outputs.", param="structured_outputs"
        )
    return by_format or by_extra


def _by_format(asked: ResponseFormat) -> Grammar | None:
    if (asked.json_schema is None) == (asked.type == "json_schema"):
        raise InvalidValueError(
            "json_schema belongs to the type 'json_schema', and to no other.",
            param="response_format.json_schema",
        )
    if asked.json_schema is not None:
        given = asked.json_schema.given
        return ANY_OBJECT if given is None else JsonGrammar(schema=enforceable(given, SCHEMA))
    return ANY_OBJECT if asked.type == "json_object" else None


def _by_extra(asked: StructuredOutputs) -> Grammar:
    if (asked.regex is None) == (asked.choice is None):
        raise InvalidValueError("give either regex or choice.", param="structured_outputs")
    if asked.regex is not None:
        check_regex(asked.regex, "structured_outputs.regex")
        return RegexGrammar(pattern=asked.regex)
    choices = tuple(asked.choice or ())
    if sum(map(len, choices)) > LIMITS.schema_chars:
        raise InvalidSchemaError(
            f"the choices have more than {LIMITS.schema_chars} characters together.",
            param="structured_outputs.choice",
        )
    return ChoiceGrammar(choices=choices)
