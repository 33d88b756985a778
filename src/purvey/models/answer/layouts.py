"""How a model marks calls and reasoning, read off its chat template."""

import re

from purvey.contracts.sampling import CallLayout

THINKING = ("<think>", "</think>")
"""What begins and what ends reasoning (Qwen3, SmolLM3, DeepSeek-R1)."""
_HERMES = CallLayout(kind="wrapped", trigger="<tool_call>", closing="</tool_call>")
_FENCED = CallLayout(kind="wrapped", trigger="```tool_code", closing="```")
_MISTRAL = CallLayout(kind="list", trigger="[TOOL_CALLS]")
_LLAMA = CallLayout(kind="bare", trigger="<|python_tag|>", key="parameters")
_TOOLS = re.compile(r"\btools\b")
_OTHER_FORMS = ("<function=", "[ARGS]", "<arg_key>")
"""Of templates whose calls are not JSON of a name and arguments."""
_PARAMETERS = re.compile(r'\\?"parameters\\?": ')


def call_layout(template: str) -> CallLayout | None:
    """Return how a template's model writes calls; None where it takes no tools, or is unknown."""
    if not _TOOLS.search(template) or any(form in template for form in _OTHER_FORMS):
        return None
    for layout in (_HERMES, _MISTRAL, _FENCED):
        if layout.trigger in template:
            return layout
    is_llama = "<|python_tag|>" in template or _PARAMETERS.search(template)
    return _LLAMA if is_llama else None


def marks_reasoning(template: str) -> bool:
    """Tell whether a template's model sets its reasoning apart."""
    return all(mark in template for mark in THINKING)
