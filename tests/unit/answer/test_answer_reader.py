"""Answers told apart: every family's calls, wherever the pieces of their text end."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purvey.contracts.chat.tools import ToolCall
from purvey.contracts.engine import ChatMessage
from purvey.contracts.sampling import CallLayout
from purvey.models.answer.ids import with_template_ids
from purvey.models.answer.layouts import call_layout, marks_reasoning
from purvey.models.answer.reader import AnswerReader, CallRules, Said

QWEN = "{% if tools %}<tool_call>\n</tool_call>{% endif %}<think>\n\n</think>"
MISTRAL = "{% if tools is not none %}[TOOL_CALLS] [{% endif %}"
LLAMA = "{{ tools }}" + """{{- '{"name": "' + call.name + '", ' }}{{- '"parameters": ' }}"""
FENCED = "{{ tools }}```tool_code"
ARGUMENTS = '{"a": "}] </tool_call> \\" {", "b": [{"c": 1}]}'
F = f'{{"name": "f", "arguments": {ARGUMENTS}}}'
G = '{"arguments": {}, "id": 7, "name": "g"}'
BOTH = [["f", ARGUMENTS], ["g", "{}"]]


def layout(template: str) -> CallLayout:
    found = call_layout(template)
    assert found is not None
    return found


def read(
    text: str, cuts: list[int], template: str = QWEN, *, is_certain: bool = False
) -> tuple[Said, list[list[str]]]:
    """Read a text in pieces, and put what is told of calls together."""
    rules = CallRules(layout=layout(template), names=frozenset("fg"), is_certain=is_certain)
    reader = AnswerReader(rules=rules, marks_reasoning=marks_reasoning(template))
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    said = Said()
    for start, end in itertools.pairwise(edges):
        said += reader.push(text[start:end])
    said += reader.finish()
    calls: list[list[str]] = []
    for one in said.calls:
        if one.name is not None:
            calls.append([one.name, ""])
        calls[one.index][1] += one.arguments
    return said, calls


CUTS = st.lists(st.integers(0, 300), max_size=30)


@pytest.mark.parametrize("is_certain", [False, True])
@pytest.mark.parametrize(
    ("template", "text"),
    [
        (QWEN, f"<tool_call>\n{F}\n</tool_call>\n<tool_call>{G}</tool_call>"),
        (QWEN, f"<tool_call>{F}</tool_call><tool_call>\n{G}"),
        (MISTRAL, f"[TOOL_CALLS] [{F}, {G}]"),
        (MISTRAL, f"[TOOL_CALLS][{F} ,{G} ]\n"),
        (LLAMA, f"{F}; {G}".replace("arguments", "parameters")),
        (LLAMA, f"<|python_tag|>{F};{G}"),
        (FENCED, f"```tool_code\n{F}\n```\n\n```tool_code\n{G}\n```"),
    ],
)
@settings(max_examples=40)
@given(cuts=CUTS)
def test_calls_are_found_wherever_pieces_end(
    template: str, text: str, is_certain: bool, cuts: list[int]
) -> None:
    said, calls = read(text, cuts, template, is_certain=is_certain)
    assert (said.content, calls) == ("", BOTH)


PIECES = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<think>", "</think>", "\n", " ", "{", "}", '"', "f"),
        *(f"<tool_call>{G}</tool_call>", '{"name": "f", "arguments": ', '{"x": 1}', "é🙂"),
    ]
)


@given(text=st.lists(PIECES, max_size=12).map("".join), cuts=CUTS)
def test_pieces_change_nothing_and_nothing_is_lost(text: str, cuts: list[int]) -> None:
    said, calls = read(text, cuts)
    whole, whole_calls = read(text, [])
    assert (said.reasoning, said.content, calls) == (whole.reasoning, whole.content, whole_calls)
    kept = "".join(said.reasoning.split()) + "".join(said.content.split())
    lost = "".join(text.split())
    for mark in ("<think>", "</think>"):
        lost, kept = lost.replace(mark, ""), kept.replace(mark, "")
    if not calls:
        assert kept == lost


@settings(max_examples=40)
@given(cuts=CUTS)
def test_reasoning_comes_first(cuts: list[int]) -> None:
    text = f" <think>\n so <tool_call>{G}</tool_call>\n</think>\n\nHi <tool_call>{G}</tool_call>\n"
    said, calls = read(text, cuts)
    assert said.reasoning == f"so <tool_call>{G}</tool_call>"
    assert (said.content, calls) == ("Hi ", [["g", "{}"]])


def test_content_that_only_looks_like_a_call_stays(subtests: pytest.Subtests) -> None:
    for template, text in [
        (LLAMA, 'The answer is {"name": "f", "parameters": {}}'),
        (LLAMA, '{"name": "x", "parameters": {}} ok'),
        (LLAMA, '{"name": "f", "parameters": {"a": 1e999999}, }'),
        (MISTRAL, '[TOOL_CALLS] {"name": "f"}'),
        (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": "x"}]'),
        (QWEN, "<tool_call><function=f></function></tool_call>"),
    ]:
        with subtests.test(text):
            said, calls = read(text, [])
            assert (said.content, calls) == (text, [])
            said, calls = read(text, list(range(len(text))), template)
            assert (said.content, calls) == (text, [])


def test_what_a_template_says_decides(subtests: pytest.Subtests) -> None:
    for template, kind in [
        (QWEN, "wrapped"),
        (MISTRAL, "list"),
        (LLAMA, "bare"),
        (FENCED, "wrapped"),
        ("{{ tools }}<|python_tag|>", "bare"),
        ("{{ tools }}", None),
        ("<tool_call></tool_call>", None),
        ("{{ tools }}<tool_call><function=x>", None),
        ("{{ tools }}[TOOL_CALLS]f[ARGS]{}", None),
    ]:
        with subtests.test(template):
            found = call_layout(template)
            assert (found and found.kind) == kind


def test_ids_are_short_where_the_template_wants_them() -> None:
    call = ToolCall(id="call_" + "a" * 32, name="f", arguments="{}")
    talk = [
        ChatMessage(role="assistant", content="", tool_calls=(call,)),
        ChatMessage(role="tool", content="x", tool_call_id=call.id),
        ChatMessage(role="tool", content="x", tool_call_id="abc123XYZ"),
    ]
    assert with_template_ids(talk, MISTRAL) is talk
    first, second, third = with_template_ids(talk, "{% if call.id|length != 9 %}")
    assert first.tool_calls[0].id == second.tool_call_id
    assert len(second.tool_call_id or "") == 9
    assert (second.tool_call_id or "").isalnum()
    assert third.tool_call_id == "abc123XYZ"
    assert json.loads(first.tool_calls[0].arguments) == {}
