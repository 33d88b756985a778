"""Grammars in the words of the library that enforces them, and whether they can be enforced.

Compiling a hostile one may take any time and memory, so `check` runs in parse processes alone.
"""

import json
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits

from purvey.contracts.parse import GrammarChecked
from purvey.contracts.sampling import ChoiceGrammar, Grammar, JsonGrammar, RegexGrammar, param_of
from purvey.errors import InvalidSchemaError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions  # the package exports the name of no type

GRAMMAR_LIMITS = LLParserLimits(
    max_lexer_states=20_000, max_grammar_size=200_000, verbose_errors=False
)
"""What one output may make the library hold; the rest of its own limits bound each step."""
_JSON: "JsonCompileOptions" = {
    # A break and its indentation, or a space or two: blanks without end are no answer.
    "whitespace_flexible": True,
    "whitespace_pattern": r"[ ]{1,2}|\n[ ]{0,64}",
    # No `\u0061`: a name must not be written in a way that the schema's names are not.
    "json_allowed_escapes": '"\\bfnrt',
}
_REASON_CHARS = 200


def source_of(grammar: Grammar) -> str:
    """Return a grammar in the library's own form.

    Raises:
        InvalidSchemaError: The text is no schema at all.
    """
    match grammar:
        case JsonGrammar(schema=schema):
            try:
                return LLMatcher.grammar_from_json_schema(schema, overrides=_JSON)
            except ValueError as error:
                raise refusal(grammar, str(error)) from None
        case RegexGrammar(pattern=pattern):
            return LLMatcher.grammar_from_regex(pattern)
        case ChoiceGrammar(choices=choices):
            quoted = (json.dumps(choice, ensure_ascii=False) for choice in choices)
            return LLMatcher.grammar_from_lark(f"start: {' | '.join(quoted)}")


def check(grammar: Grammar) -> GrammarChecked:
    """Compile a grammar.

    Raises:
        InvalidSchemaError: It has no meaning, allows nothing, or is too large.
    """
    wrong = LLMatcher.validate_grammar(source_of(grammar), limits=GRAMMAR_LIMITS)
    if wrong and not wrong.startswith("WARNING"):
        raise refusal(grammar, wrong)
    return GrammarChecked()


def refusal(grammar: Grammar, said: str) -> InvalidSchemaError:
    """Say in one line what the library has against a grammar."""
    lines = [line.strip() for line in said.splitlines()]
    told = [line for line in lines if line and not line.startswith("<")] or ["it is not usable"]
    errors = [line for line in told if line.startswith("error: ")]
    reason = (errors or told)[0].removeprefix("error: ")[:_REASON_CHARS].rstrip(".:")
    return InvalidSchemaError(f"it cannot be enforced: {reason}.", param=param_of(grammar))
