"""How the tokens of an output are chosen, and what the whole output must look like."""

from typing import Literal

import msgspec

from purvey.contracts.chat.tools import ToolUse


class JsonGrammar(msgspec.Struct, frozen=True, kw_only=True, tag="json"):
    """The output is one JSON value that a schema allows.

    Args:
        schema: JSON text of the schema; it holds only keywords that are enforced.
    """

    schema: str


class RegexGrammar(msgspec.Struct, frozen=True, kw_only=True, tag="regex"):
    """The whole output matches a regular expression, in the syntax of Rust's `regex`."""

    pattern: str


class ChoiceGrammar(msgspec.Struct, frozen=True, kw_only=True, tag="choice"):
    """The output is one of these texts."""

    choices: tuple[str, ...]


class CallLayout(msgspec.Struct, frozen=True, kw_only=True):
    """How a family of models writes calls: each is JSON of a name and arguments.

    Args:
        kind: `wrapped`, each call between `trigger` and `closing`; `list`, a JSON list of calls
            behind `trigger`; `bare`, calls alone, from the beginning of the content.
        trigger: Text of the token, or tokens, that announce calls; a bare call may lack it.
        closing: What ends a wrapped call.
        key: What the arguments are called.
    """

    kind: Literal["wrapped", "list", "bare"]
    trigger: str
    closing: str = ""
    key: Literal["arguments", "parameters"] = "arguments"


class CallGrammar(msgspec.Struct, frozen=True, kw_only=True, tag="calls"):
    """The output is one or more calls and nothing else, or text in which calls may stand.

    Args:
        layout: How they are written.
        functions: Name and JSON text of the arguments' schema of those that may be called.
        max_calls: Calls at most.
        must_call: Whether there is nothing but calls, and at least one.
    """

    layout: CallLayout
    functions: tuple[tuple[str, str], ...]
    max_calls: int = 1
    must_call: bool = True


Grammar = JsonGrammar | RegexGrammar | ChoiceGrammar | CallGrammar


def param_of(grammar: Grammar) -> str:
    """Name the request field that a grammar came from."""
    match grammar:
        case JsonGrammar():
            return "response_format.json_schema.schema"
        case RegexGrammar():
            return "structured_outputs.regex"
        case ChoiceGrammar():
            return "structured_outputs.choice"
        case CallGrammar():
            return "tools"


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen.

    Logits are first changed: `repetition_penalty`, the other penalties, bias, grammar. Then they
    are cut: `top_k`, `top_p`, `min_p`, each of what the one before has left. Then one is drawn.

    Args:
        temperature: 0 is greedy.
        top_p: Nucleus mass in (0, 1] (Holtzman et al. 2020).
        top_k: Likeliest tokens that are kept; 0 keeps all.
        min_p: Tokens less likely than this share of the likeliest are dropped, in [0, 1].
        presence_penalty: Taken off a token's logit once it stands in the output, in [-2, 2].
        frequency_penalty: Taken off for each time that it stands there, in [-2, 2].
        repetition_penalty: Divides a positive logit, and multiplies a negative one, of a token
            that stands in prompt or output (Keskar et al. 2019); 1 changes nothing.
        logit_bias: What is added to the logits of token ids, in [-100, 100]; -100 bans a token.
        grammar: What the whole output must look like, or None.
        seed: Every token draws from a generator derived from (seed, position), so a batch
            neighbour cannot change the outcome.
        max_tokens: Output tokens at most; None asks for what the context leaves, capped by
            the server's default.
        stop: Strings that end the output and are not part of it.
        num_logprobs: None for no log-probabilities, else how many alternatives per token.
        echo: Whether the prompt is returned before the output (completions only).
        tool_use: Which calls may be made of a conversation's tools; None for none.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: Grammar | None = None
    seed: int = 0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    num_logprobs: int | None = None
    echo: bool = False
    tool_use: ToolUse | None = None
