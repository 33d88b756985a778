"""What a conversation asks of its answer: which calls it may or must make, what is told apart."""

from collections.abc import Sequence

from purvey.contracts.chat.tools import Tool, ToolUse
from purvey.contracts.engine import ChatPrompt, Prompt
from purvey.contracts.limits import LIMITS
from purvey.contracts.sampling import CallGrammar, Grammar, Sampling
from purvey.errors import UnsupportedValueError
from purvey.models.answer.layouts import THINKING
from purvey.models.answer.reader import AnswerReader, CallRules
from purvey.models.chat import ChatTemplate
from purvey.models.tokenizer import Tokenizer

_ANY_ARGUMENTS = '{"type": "object"}'


def check_template(prompt: ChatPrompt, template: ChatTemplate) -> None:
    """Make sure that a template knows what a conversation holds.

    Raises:
        UnsupportedValueError: It would silently leave something out.
    """
    if prompt.tools and template.call_layout is None:
        raise UnsupportedValueError(
            "this model's chat template takes no tools, or writes calls in a form that is not "
            "read here.",
            param="tools",
            hint='Leave them out, or set tool_choice to "none".',
        )
    has_calls = any(message.tool_calls for message in prompt.messages)
    if has_calls and "tool_calls" not in template.source:
        raise UnsupportedValueError(
            "this model's chat template would leave out the conversation's tool_calls.",
            param="messages",
            hint="Say in the content what was called.",
        )
    if prompt.enable_thinking is not None and "enable_thinking" not in template.source:
        raise UnsupportedValueError(
            "this model's chat template does not know enable_thinking.",
            param="chat_template_kwargs.enable_thinking",
            hint="Leave it out.",
        )


def grammar_of(prompt: Prompt, sampling: Sampling, template: ChatTemplate | None) -> Grammar | None:
    """Return what the whole output must look like."""
    use = sampling.tool_use
    layout = None if template is None else template.call_layout
    if use is None or layout is None or not isinstance(prompt, ChatPrompt):
        return sampling.grammar
    tools = [tool for tool in prompt.tools if use.only in (None, tool.name)]
    if not (use.must_call or any(tool.is_strict for tool in tools)):
        return sampling.grammar
    is_many = use.is_parallel and layout.kind != "bare"  # a bare call is the whole output
    return CallGrammar(
        layout=layout,
        functions=tuple((tool.name, _enforced(tool, use)) for tool in tools),
        max_calls=LIMITS.answer_calls if is_many else 1,
        must_call=use.must_call,
    )


def _enforced(tool: Tool, use: ToolUse) -> str:
    return tool.schema if use.must_call or tool.is_strict else _ANY_ARGUMENTS


def reader_of(
    prompt: Prompt,
    ids: Sequence[int],
    sampling: Sampling,
    template: ChatTemplate | None,
    tokenizer: Tokenizer,
) -> AnswerReader | None:
    """Return who tells apart what an answer says; None where there is nothing to."""
    if template is None or not isinstance(prompt, ChatPrompt):
        return None
    use, layout = sampling.tool_use, template.call_layout
    rules = None
    if use is not None and layout is not None and prompt.tools:
        rules = CallRules(
            layout=layout,
            names=frozenset(tool.name for tool in prompt.tools if use.only in (None, tool.name)),
            is_certain=use.must_call,
            max_calls=None if use.is_parallel else 1,
        )
    is_forced = sampling.grammar is not None or (use is not None and use.must_call)
    thinks = template.marks_reasoning and not is_forced  # a grammar leaves no room for it
    if rules is None and not thinks:
        return None
    is_reasoning = thinks and template.begins_reasoning(ids, tokenizer)
    return AnswerReader(rules=rules, marks_reasoning=thinks, is_reasoning=is_reasoning)


def marks_of(template: ChatTemplate | None) -> tuple[str, ...]:
    """List the marks that a reader looks for, some of which may be special tokens."""
    if template is None:
        return ()
    layout = template.call_layout
    calls = () if layout is None else (layout.trigger, layout.closing)
    return (*calls, *(THINKING if template.marks_reasoning else ()))
