"""How a scripted engine calls functions and reasons: as the Hermes family writes it."""

import json

from purvey.contracts.engine import ChatPrompt, Delta, Generate
from purvey.models.answer.layouts import call_layout
from purvey.models.answer.reader import AnswerReader, CallRules, Said
from purvey.testing.scripted_grammar import least

_LAYOUT = call_layout("tools <tool_call>")


def called(request: Generate, reply: str) -> str:
    """Return a reply, or the least call where the answer must be one and the reply has none."""
    use, prompt = request.sampling.tool_use, request.prompt
    if use is None or not use.must_call or not isinstance(prompt, ChatPrompt):
        return reply
    if reply.startswith("<tool_call>"):
        return reply
    tool = next(tool for tool in prompt.tools if use.only in (None, tool.name))
    schema = json.loads(tool.schema)
    call = {"name": tool.name, "arguments": least(schema, schema)}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


class Told:
    """Turns characters into deltas.

    Args:
        request: What is answered.
    """

    def __init__(self, request: Generate) -> None:
        self._reader = _reader(request)
        self.num_reasoning = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing more is to be said."""
        return self._reader is not None and self._reader.is_done

    def read(self, delta: Delta, *, is_last: bool = False) -> Delta:
        """Return a delta of text as one of reasoning, content and calls."""
        if self._reader is None:
            return delta
        self.num_reasoning += self._reader.is_reasoning and not is_last
        said = self._reader.finish() if is_last else self._reader.push(delta.text)
        return _delta(delta, said)


def _delta(delta: Delta, said: Said) -> Delta:
    return Delta(
        request_id=delta.request_id,
        text=said.content,
        num_tokens=delta.num_tokens,
        tokens=delta.tokens,
        reasoning=said.reasoning,
        calls=tuple(said.calls),
    )


def _reader(request: Generate) -> AnswerReader | None:
    use, prompt = request.sampling.tool_use, request.prompt
    if not isinstance(prompt, ChatPrompt):
        return None
    rules = None
    if use is not None and _LAYOUT is not None:
        rules = CallRules(
            layout=_LAYOUT,
            names=frozenset(tool.name for tool in prompt.tools if use.only in (None, tool.name)),
            is_certain=use.must_call,
            max_calls=None if use.is_parallel else 1,
        )
    is_forced = request.sampling.grammar is not None or (use is not None and use.must_call)
    return AnswerReader(rules=rules, marks_reasoning=not is_forced)
