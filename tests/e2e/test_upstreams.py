"""A server in front of a server whose engine is real: the same tokens, counted the same."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import openai
import pytest
import torch
from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel, Field
from transformers import LlamaConfig, LlamaForCausalLM

from purvey.client.purvey import Purvey
from purvey.models.tokenizer import Tokenizer
from tests.conftest import FIRST_KEY, scripted_server

if TYPE_CHECKING:
    from pathlib import Path

NAME = "random-upstream"
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


TOOL: Any = pydantic_function_tool(Weather, name="get_weather")
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "w", "schema": Weather.model_json_schema(), "strict": True},
}


@pytest.fixture(scope="module")
def directly(live_server: Any) -> Iterator[OpenAI]:
    with live_server.openai() as official:
        yield official


@pytest.fixture(scope="module")
def through(
    live_server: Any, directly: OpenAI, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenAI]:
    """The official client, pointed at a server that has no engine of its own."""
    folder = live_server.settings.model_roots[0] / NAME
    tokenizer = Tokenizer.train(
        ["Weather in Oslo?", "get_weather"] * 4, vocabulary_size=290, special_tokens=SPECIAL
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.vocabulary_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    with Purvey(live_server.base_url, FIRST_KEY) as client:
        client.models.register(NAME, str(folder))
    root: Path = tmp_path_factory.mktemp("front")
    (root / "key").write_text(FIRST_KEY, encoding="ascii")
    upstream = {"name": "live", "url": f"{live_server.base_url}/v1", "key_file": root / "key"}
    with scripted_server(root, upstreams=[upstream]) as front, front.openai() as official:
        body = {"id": "far", "source": NAME, "upstream": "live"}
        official.post("/models", cast_to=object, body=body)
        yield official


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0, "max_tokens": 24, "logprobs": True, "top_logprobs": 3},
        {"temperature": 1, "seed": 5, "n": 3, "max_tokens": 16},
        {"temperature": 1, "seed": 5, "tools": [TOOL], "tool_choice": "required"},
        {"temperature": 1, "seed": 5, "response_format": SCHEMA, "max_tokens": 64},
    ],
    ids=["logprobs", "choices", "tools", "schema"],
)
def test_the_same_seed_gives_the_same_answer_through_us(
    directly: OpenAI, through: OpenAI, more: dict[str, Any]
) -> None:
    asked: dict[str, Any] = {"messages": TALK} | more
    there = directly.chat.completions.create(model=NAME, **asked)
    here = through.chat.completions.create(model="far", **asked)
    assert _said(here) == _said(there)
    assert here.usage is not None
    assert there.usage is not None
    assert here.usage.completion_tokens == there.usage.completion_tokens > 0
    options: Any = {"include_usage": True}
    with through.chat.completions.create(
        model="far", stream=True, stream_options=options, **asked
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == there.usage.completion_tokens
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    whole = "".join(c.message.content or "" for c in there.choices)
    assert sorted(text) == sorted(whole)  # several choices are interleaved


def test_a_refusal_is_the_engines_own(directly: OpenAI, through: OpenAI) -> None:
    asked: dict[str, Any] = {"messages": TALK, "max_tokens": 100_000}
    with pytest.raises(openai.BadRequestError) as there:
        directly.chat.completions.create(model=NAME, **asked)
    with pytest.raises(openai.BadRequestError) as here:
        through.chat.completions.create(model="far", **asked)
    assert here.value.code == there.value.code == "context_length_exceeded"
    assert here.value.body == there.value.body


def _said(answer: Any) -> list[Any]:
    return [
        (
            choice.message.content,
            [call.function.arguments for call in choice.message.tool_calls or []],
            choice.finish_reason,
            choice.logprobs and choice.logprobs.to_dict(),
        )
        for choice in answer.choices
    ]
