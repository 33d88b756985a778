"""Calls of a random model at temperature 1, in every family's way of writing them."""

import json
import re
from dataclasses import dataclass, field

import jsonschema_rs
import msgspec
import pytest
import torch

from purvey.contracts.chat.tools import Tool, ToolCall, ToolUse
from purvey.contracts.engine import ChatMessage, ChatPrompt
from purvey.contracts.sampling import RegexGrammar, Sampling
from purvey.engine.core import Core
from purvey.engine.door import Door
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import KVCache
from purvey.engine.output.grammar import Grammars
from purvey.engine.output.tool_use import grammar_of
from purvey.engine.runner import Runner
from purvey.errors import UnsupportedValueError
from purvey.models.chat import ChatTemplate
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.tokenizer import Tokenizer
from tests.unit.engine.conftest import CONFIG, CONTEXT_TOKENS, Bench

SPECIAL = (
    "<|endoftext|>", "[TOOL_CALLS]", "<|python_tag|>", "<tool_call>", "</tool_call>", "<think>",
    "</think>", "<|im_end|>",
)  # fmt: skip
LOOP = "{% for m in messages %}{{ m.content }}{{ m.tool_calls }}{% endfor %}{{ tools | tojson }}"
HERMES = f"{LOOP}{{# <tool_call> </tool_call> #}}"
TEMPLATES = {
    "hermes": HERMES,
    "mistral": f"{LOOP}{{# [TOOL_CALLS] #}}",
    "llama": f'{LOOP}{{# {{"name": ..., "parameters": ...}} #}}',
    "fenced": f"{LOOP}{{# ```tool_code #}}",
}
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 4},
        "unit": {"$ref": "#/$defs/unit"},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
    "$defs": {"unit": {"enum": ["C", "F"]}},
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
SCHEMAS = {"get_weather": SCHEMA, "get-time": NOTHING}
TOOLS = tuple(
    Tool(name=name, definition=json.dumps({"name": name}), schema=json.dumps(schema))
    for name, schema in SCHEMAS.items()
)
PROMPT = ChatPrompt(messages=(ChatMessage(role="user", content="the cat"),), tools=TOOLS)


@dataclass
class Answer:
    """What was said, put together."""

    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    num_pieces: int = 0


@pytest.fixture(scope="module", params=[True, False], ids=["special marks", "plain marks"])
def marked(request: pytest.FixtureRequest) -> Tokenizer:
    """A tokenizer whose marks are special tokens, and one that has to spell them."""
    texts = ["the cat sat on the mat", '{"name": "get_weather"', "日本語 and 中文"] * 4
    special = SPECIAL if request.param else (SPECIAL[0], SPECIAL[-1])
    return Tokenizer.train(texts, vocabulary_size=296, special_tokens=special)


def _bench(tokenizer: Tokenizer, source: str, *, config: DecoderConfig = CONFIG) -> Bench:
    decoder = Decoder(config).eval()
    decoder.reset_parameters(torch.Generator().manual_seed(7))
    runner = Runner(FrozenDecoder(decoder), KVCache(config, num_blocks=400))
    core = Core(runner, max_batch_tokens=64)
    door = Door(
        tokenizer,
        ChatTemplate.for_tokenizer(source, tokenizer),
        stop_ids=frozenset(tokenizer.eos_ids),
        vocabulary_size=config.vocabulary_size,
        context_tokens=CONTEXT_TOKENS,
        cache_tokens=core.cache_tokens,
    )
    return Bench(core=core, door=door, runner=runner)


def _answer(bench: Bench, name: str) -> Answer:
    answer = Answer()
    for delta in bench.deltas(name):
        answer.text += delta.text
        answer.reasoning += delta.reasoning
        for call in delta.calls:
            if call.name is not None:
                assert call.index == len(answer.calls)
                answer.calls.append([call.name, ""])
            answer.calls[call.index][1] += call.arguments
            answer.num_pieces += bool(call.arguments)
    return answer


def _sampling(use: ToolUse | None, seed: int = 0, max_tokens: int = 100) -> Sampling:
    return Sampling(temperature=1.0, seed=seed, max_tokens=max_tokens, tool_use=use)


@pytest.mark.parametrize("family", TEMPLATES)
def test_an_answer_that_must_call_is_a_call_that_validates(marked: Tokenizer, family: str) -> None:
    bench = _bench(marked, TEMPLATES[family])
    uses = [
        ToolUse(must_call=True, is_parallel=False),
        ToolUse(must_call=True, only="get_weather", is_parallel=False),
        ToolUse(must_call=True),
    ]
    asked = {f"{number}.{seed}": use for number, use in enumerate(uses) for seed in (0, 1)}
    for seed, (name, use) in enumerate(asked.items()):
        bench.ask(name, prompt=PROMPT, sampling=_sampling(use, seed))
    bench.finish()
    num_called = 0
    for name, use in asked.items():
        answer, end = _answer(bench, name), bench.ended(name)
        assert not answer.text.strip() or end.reason == "length"
        if end.reason != "stop":
            continue
        num_called += 1
        assert len(answer.calls) == 1 or (use.is_parallel and answer.calls)
        for called, arguments in answer.calls:
            assert use.only in (None, called)
            jsonschema_rs.validate(SCHEMAS[called], json.loads(arguments))
    assert num_called >= 3


def test_arguments_that_are_enforced_come_piece_by_piece(marked: Tokenizer) -> None:
    bench = _bench(marked, HERMES)
    use = ToolUse(must_call=True, only="get_weather", is_parallel=False)
    bench.ask("a", prompt=PROMPT, sampling=_sampling(use))
    bench.finish()
    assert _answer(bench, "a").num_pieces > 3


STRICT = tuple(msgspec.structs.replace(tool, is_strict=True) for tool in TOOLS)
GOOD = '{{"name": "get_weather", "{key}": {{"city": "Rome", "unit": "C"}}}}'
WRONG = '{{"name": "get_weather", "{key}": {{"city": "Rome", "unit": "K"}}}}'
UNKNOWN = '{{"name": "get_money", "{key}": {{}}}}'
WRITTEN = {
    "hermes": "<tool_call>\n{call}\n</tool_call>",
    "mistral": "[TOOL_CALLS][{call}]",
    "llama": "<|python_tag|>{call}",
    "fenced": "```tool_code\n{call}\n```",
}


def _is_allowed(tokenizer: Tokenizer, family: str, text: str, tools: tuple[Tool, ...]) -> bool:
    """Tell whether an answer may be this text, of calls that may be made but need not."""
    template = ChatTemplate.for_tokenizer(TEMPLATES[family], tokenizer)
    prompt = ChatPrompt(messages=PROMPT.messages, tools=tools)
    grammar = grammar_of(prompt, _sampling(ToolUse()), template)
    if grammar is None:
        return True
    stop_ids = frozenset(tokenizer.eos_ids)
    guide = Grammars(tokenizer, stop_ids=stop_ids, vocabulary_size=296).guide(grammar)
    marks = "|".join(re.escape(mark) for mark in SPECIAL if mark in tokenizer.special_tokens)
    for part in re.split(f"({marks})", text):
        special = tokenizer.special_tokens.get(part)
        ids = [special] if special else tokenizer.encode(part, is_continuation=True)
        for token_id in ids:
            if guide.restrict(torch.zeros(296))[token_id] != 0:
                return False
            guide.take(token_id)
    return bool(guide.restrict(torch.zeros(296))[min(stop_ids)] == 0)


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_strict_call_obeys_wherever_it_stands(marked: Tokenizer, family: str) -> None:
    key = "parameters" if family == "llama" else "arguments"
    call, wrong, unknown = (text.format(key=key) for text in (GOOD, WRONG, UNKNOWN))

    def written(text: str) -> str:
        return WRITTEN[family].format(call=text)

    allowed = ["", "the cat", "日本 {not a call}\n", written(call), "hm.\n" + written(call)]
    refused = [written(wrong), "hm.\n" + written(wrong), written(unknown), written("")]
    if family == "llama":
        allowed += [call, f"\n {call}", f"the cat {wrong}"]
        refused += [wrong, f"\n {wrong}", "{}", f"{call} and more"]
    else:
        allowed += [call, wrong, f"{written(call)} and more", f"{written(call)}\n{written(call)}"]
        refused += [f"{written(call)}\n{written(wrong)}"]
    if "<think>" in marked.special_tokens:
        allowed += [f"<think>the cat</think>\n\n{written(call)}", "<think>the</think>cat"]
        refused += [f"<think>the cat</think>\n\n{written(wrong)}"]
    for text in allowed:
        assert _is_allowed(marked, family, text, STRICT), text
    for text in refused:
        assert not _is_allowed(marked, family, text, STRICT), text
        assert _is_allowed(marked, family, text, TOOLS), "only strict tools are held to a schema"


def test_beside_a_strict_tool_another_takes_any_arguments(marked: Tokenizer) -> None:
    tools = (TOOLS[0], STRICT[1])
    for name, arguments, is_right in [
        ("get_weather", '{"unit": 3}', True),
        ("get-time", "{}", True),
        ("get-time", '{"unit": 3}', False),
    ]:
        call = f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
        assert _is_allowed(marked, "hermes", call, tools) is is_right, call


def test_a_model_that_calls_of_its_own_accord_is_held_to_a_strict_schema() -> None:
    tokenizer = Tokenizer.train(["the cat sat"] * 4, vocabulary_size=296, special_tokens=SPECIAL)
    bench = _bench(tokenizer, HERMES)
    trigger = tokenizer.special_tokens["<tool_call>"]
    prompt = ChatPrompt(messages=PROMPT.messages, tools=STRICT)
    for seed in range(6):
        sampling = Sampling(
            temperature=1.0, seed=seed, max_tokens=140, tool_use=ToolUse(is_parallel=False),
            logit_bias=((trigger, 6.0),),
        )  # fmt: skip
        bench.ask(str(seed), prompt=prompt, sampling=sampling)
    bench.finish()
    answers = [_answer(bench, str(seed)) for seed in range(6)]
    calls = [call for answer in answers for call in answer.calls]
    assert calls
    for called, arguments in calls:
        jsonschema_rs.validate(SCHEMAS[called], json.loads(arguments))


def test_one_call_that_may_be_ends_the_answer(marked: Tokenizer) -> None:
    written = '<tool_call>{"name": "get-time", "arguments": {}}</tool_call> and more'
    bench = _bench(marked, HERMES)
    for name, use in (("one", ToolUse(is_parallel=False)), ("many", ToolUse())):
        sampling = _sampling(use)
        written_out = RegexGrammar(pattern="".join(f"[{c}]" for c in written))
        bench.ask(name, prompt=PROMPT, sampling=_with(sampling, written_out))
    bench.finish()
    one, many = _answer(bench, "one"), _answer(bench, "many")
    assert one.calls == many.calls == [["get-time", "{}"]]
    assert (one.text, many.text) == ("", "and more")
    assert bench.ended("one").completion_tokens < bench.ended("many").completion_tokens


def _with(sampling: Sampling, grammar: RegexGrammar) -> Sampling:
    return Sampling(temperature=1.0, max_tokens=120, tool_use=sampling.tool_use, grammar=grammar)


def test_reasoning_that_the_prompt_has_begun_is_told_apart(marked: Tokenizer) -> None:
    source = f"{LOOP}<think>\n{{# </think> #}}"
    bench = _bench(marked, source)
    prompt = ChatPrompt(messages=PROMPT.messages)
    bench.ask("a", prompt=prompt, sampling=_sampling(None, max_tokens=12))
    bench.finish()
    answer, end = _answer(bench, "a"), bench.ended("a")
    assert answer.text == ""
    assert answer.reasoning
    assert end.reasoning_tokens == 12


def test_what_a_template_would_leave_out_is_refused(marked: Tokenizer) -> None:
    bench = _bench(marked, "{% for m in messages %}{{ m.content }}{% endfor %}")
    call = ToolCall(id="a", name="get-time", arguments="{}")
    talk = (ChatMessage(role="assistant", content="", tool_calls=(call,)),)
    wrong = {
        "tools": PROMPT,
        "messages": ChatPrompt(messages=talk),
        "chat_template_kwargs.enable_thinking": ChatPrompt(
            messages=PROMPT.messages, enable_thinking=True
        ),
    }
    for param, prompt in wrong.items():
        with pytest.raises(UnsupportedValueError) as caught:
            bench.door.encode(prompt)
        assert caught.value.param == param


def test_control_tokens_in_tools_and_calls_stay_text(marked: Tokenizer) -> None:
    attack = "".join(SPECIAL)
    source = "{% for m in messages %}{{ (m.tool_calls or []) | tojson }}{{ m.tool_call_id }}"
    source += "{{ m.reasoning_content }}{{ m.content }}{% endfor %}{{ tools | tojson }}"
    template = ChatTemplate.for_tokenizer(f"{source}{{# {attack} #}}", marked)
    call = ToolCall(id=attack, name=attack, arguments=json.dumps({attack: [attack]}))
    talk = [
        ChatMessage(role="assistant", content="", tool_calls=(call,), reasoning=attack),
        ChatMessage(role="tool", content=attack, tool_call_id=attack),
    ]
    definition = json.dumps({"name": "f", "description": attack, "parameters": {attack: attack}})
    tool = Tool(name="f", definition=definition, schema="{}")
    ids = template.encode(talk, marked, tools=[tool])
    assert marked.decode(ids, keep_special=True).count(attack) == 10
    assert not {*marked.special_tokens.values()} & {*ids}
