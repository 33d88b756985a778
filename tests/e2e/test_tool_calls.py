"""Tool calls of a real engine over HTTP: a random model, the official client."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
import torch
from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel, Field
from transformers import LlamaConfig, LlamaForCausalLM

from purvey.client.purvey import Purvey
from purvey.models.tokenizer import Tokenizer

NAME = "random-caller"
TALK: Any = [{"role": "user", "content": "Weather in Oslo?"}]  # the SDK's message types
SPECIAL = ("<|endoftext|>", "<tool_call>", "</tool_call>", "<|im_end|>")
TEMPLATE = """\
{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{% for m in messages %}{{ m.content }}
{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}
{% endfor %}"""


class Weather(BaseModel):
    """Weather of a city."""

    city: str = Field(max_length=5)
    unit: Literal["C", "F"]
    days: list[int] = Field(max_length=2)


class Clock(BaseModel):
    """Time of day."""

    is_utc: bool


MODELS: dict[str, type[BaseModel]] = {"get_weather": Weather, "get_time": Clock}
TOOLS: Any = [pydantic_function_tool(model, name=name) for name, model in MODELS.items()]


@pytest.fixture(scope="module")
def client(live_server: Any) -> Iterator[OpenAI]:
    with live_server.openai() as official:
        yield official


@pytest.fixture(scope="module")
def model(live_server: Any) -> str:
    """A random model whose template takes tools."""
    folder = live_server.settings.model_roots[0] / NAME
    tokenizer = Tokenizer.train(
        ["Weather in Oslo?", "get_weather"] * 4, vocabulary_size=290, special_tokens=SPECIAL
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.vocabulary_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2_048,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    with Purvey(live_server.base_url, live_server.admin_key) as purvey:
        purvey.models.register(NAME, str(folder))
    return NAME


def _check(name: str, arguments: str) -> None:
    MODELS[name].model_validate_json(arguments)


def test_every_answer_that_ends_with_calls_validates(client: OpenAI, model: str) -> None:
    asked: Any = {"model": model, "messages": TALK, "tools": TOOLS, "max_tokens": 300, "n": 6}
    named: Any = {"type": "function", "function": {"name": "get_time"}}
    ends: list[str | None] = []
    for choice in ("required", named):
        answer = client.chat.completions.create(
            **asked, tool_choice=choice, parallel_tool_calls=False, temperature=1, seed=3
        )
        for one in answer.choices:
            ends.append(one.finish_reason)
            if one.finish_reason != "tool_calls":
                continue
            (call,) = one.message.tool_calls or []
            assert one.message.content is None
            assert call.type == "function"
            assert choice == "required" or call.function.name == "get_time"
            _check(call.function.name, call.function.arguments)
    assert ends.count("tool_calls") >= 8


def test_the_clients_own_stream_parses_the_arguments(client: OpenAI, model: str) -> None:
    asked: Any = {"model": model, "messages": TALK, "tools": TOOLS, "max_tokens": 400, "seed": 1}
    asked |= {"tool_choice": "required", "parallel_tool_calls": False}
    num_pieces = 0
    with client.chat.completions.stream(**asked) as stream:
        for event in stream:
            num_pieces += event.type == "tool_calls.function.arguments.delta"
        final = stream.get_final_completion()
    whole = client.chat.completions.create(**asked)
    (streamed,) = final.choices[0].message.tool_calls or []
    (call,) = whole.choices[0].message.tool_calls or []
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason == "tool_calls"
    assert call.type == "function"
    assert streamed.function.arguments == call.function.arguments
    assert isinstance(streamed.function.parsed_arguments, MODELS[streamed.function.name])
    assert num_pieces > 1
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain </tool_call>"}
    talk: Any = [*TALK, whole.choices[0].message.to_dict(), result]
    more = client.chat.completions.create(
        model=model, messages=talk, tools=TOOLS, tool_choice="none", max_tokens=4
    )
    assert more.usage is not None
    assert more.usage.completion_tokens == 4


def test_what_it_says_of_its_own_is_content(client: OpenAI, model: str) -> None:
    asked: Any = {"model": model, "messages": TALK, "max_tokens": 40, "seed": 2}
    free = client.chat.completions.create(**asked, tools=TOOLS).choices[0]
    assert (free.finish_reason, free.message.tool_calls) == ("length", None)
    chunks = client.chat.completions.create(**asked, tools=TOOLS, stream=True)
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert told == free.message.content


def test_a_schema_that_nothing_satisfies_is_refused(client: OpenAI, model: str) -> None:
    never = {"type": "object", "properties": {"a": False}, "required": ["a"]}
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": never}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=model, messages=TALK, tools=[tool], tool_choice="required"
        )
    assert (caught.value.code, caught.value.param) == ("invalid_schema", "tools")


def test_arguments_are_json_to_the_last_character(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=TALK, tools=TOOLS, tool_choice="required", max_tokens=300, n=2
    )
    for choice in answer.choices:
        whole = (choice.message.tool_calls or [])[
            : -1 if choice.finish_reason == "length" else None
        ]
        for call in whole:
            assert call.type == "function"
            assert isinstance(json.loads(call.function.arguments), dict)
