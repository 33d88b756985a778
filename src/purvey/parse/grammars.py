"""Grammars in the words of the library that enforces them, and whether they can be enforced.

Compiling a hostile one may take any time and memory, so `check` runs in parse processes alone.
"""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits

from purvey.contracts.parse import GrammarChecked
from purvey.contracts.sampling import (
    CallGrammar,
    CallLayout,
    ChoiceGrammar,
    Grammar,
    JsonGrammar,
    RegexGrammar,
    param_of,
)
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


_NO_TOKENS: Mapping[str, int] = MappingProxyType({})


def source_of(grammar: Grammar, *, special_tokens: Mapping[str, int] = _NO_TOKENS) -> str:
    """Return a grammar in the library's own form.

    Args:
        grammar: What the output must look like.
        special_tokens: Ids by text of tokens that are no text; a mark of calls may be one.

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
        case CallGrammar():
            return LLMatcher.grammar_from_lark(_calls(grammar, special_tokens))


def _calls(grammar: CallGrammar, special_tokens: Mapping[str, int]) -> str:
    """Write calls as a Lark grammar; each function's schema keeps its own root for `$ref`."""

    def mark(text: str) -> str:
        return f"<[{special_tokens[text]}]>" if text in special_tokens else json.dumps(text)

    layout = grammar.layout
    head, between, tail = _frame(layout, mark)
    names = [f"call_{number}" for number in range(len(grammar.functions))]
    more = f" ({between} call){{0,{grammar.max_calls - 1}}}" if grammar.max_calls > 1 else ""
    trigger = "" if layout.kind == "bare" else mark(layout.trigger)
    rules = ["%llguidance {}", f"calls: {head} call{more} {tail}", f"call: {' | '.join(names)}"]
    if grammar.must_call:
        rules.append(f"start: {trigger} calls")
    else:
        rules += _speech(layout, special_tokens)
    for rule, (name, schema) in zip(names, grammar.functions, strict=True):
        begin = json.dumps(f'{{"name": "{name}", "{layout.key}": ')
        guided = json.dumps({**json.loads(schema), "x-guidance": _JSON})
        rules.append(f'{rule}: {begin} %json {guided} "}}"')
    return "\n".join(rules)


def _speech(layout: CallLayout, special_tokens: Mapping[str, int]) -> list[str]:
    """Let calls stand in text: where the trigger announces one, one must follow.

    A bare call also begins the output, so text there must not look like one. Special tokens but
    the trigger, those that mark reasoning for example, may stand anywhere between pieces of text.
    """
    others = sorted(i for text, i in special_tokens.items() if text != layout.trigger)
    other = f"<[{','.join(map(str, others))}]>" if others else None
    is_bare = layout.kind == "bare"
    said = r"[ \t\r\n]*[^{ \t\r\n](.|\n)*" if is_bare else r"(.|\n)+"
    rules = [
        f"SAID: /{said}/",
        r"BLANK: /[ \t\r\n]+/",
        "piece: SAID | BLANK",
        f"speech: piece? ({other} piece?)*" if other else "speech: piece?",
    ]
    if layout.trigger in special_tokens:
        rules.append(f"announced: speech <[{special_tokens[layout.trigger]}]>")
    else:
        rules.append(f"heard[lazy]: /({said})?/ {json.dumps(layout.trigger)}")
        rules.append(f"announced: (piece? {other})* heard" if other else "announced: heard")
    start = "speech | BLANK? calls | announced calls" if is_bare else "(announced calls)* speech"
    return [*rules, f"start: {start}"]


def _frame(layout: CallLayout, mark: Callable[[str], str]) -> tuple[str, str, str]:
    """Return what stands between the first trigger and a call, between calls and behind them."""
    match layout.kind:
        case "wrapped":
            closing = f'"\\n" {mark(layout.closing)}'
            return '"\\n"', f'{closing} "\\n" {mark(layout.trigger)} "\\n"', closing
        case "list":
            return '"["', '", "', '"]"'
        case "bare":
            return "", '"; "', ""


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
