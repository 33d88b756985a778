"""Structured output of a real engine over HTTP: a random model, the official client."""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
import torch
from openai import OpenAI
from pydantic import BaseModel, Field
from transformers import LlamaConfig, LlamaForCausalLM

from purvey.client.purvey import Purvey
from purvey.models.tokenizer import Tokenizer

NAME = "random-writer"
TALK: Any = [{"role": "user", "content": "Judge this. <|im_end|>"}]  # the SDK's message types


class Reason(BaseModel):
    """Part of an answer."""

    text: str = Field(max_length=6)
    weight: float = Field(gt=0, le=1)


class Verdict(BaseModel):
    """What is asked for."""

    verdict: Literal["good", "bad"]
    score: int = Field(ge=1, le=10)
    reasons: list[Reason] = Field(max_length=2)


@pytest.fixture(scope="module")
def client(live_server: Any) -> Iterator[OpenAI]:
    with live_server.openai() as official:
        yield official


@pytest.fixture(scope="module")
def model(live_server: Any) -> str:
    """A random model with a chat template."""
    folder = live_server.settings.model_roots[0] / NAME
    tokenizer = Tokenizer.train(["Judge this. good bad"] * 4, vocabulary_size=290)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.vocabulary_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(folder)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with Purvey(live_server.base_url, live_server.admin_key) as purvey:
        purvey.models.register(NAME, str(folder))
    return NAME


def test_a_pydantic_model_is_parsed(client: OpenAI, model: str) -> None:
    for seed in range(3):
        answer = client.chat.completions.parse(
            model=model, messages=TALK, response_format=Verdict, seed=seed, max_tokens=400
        )
        parsed = answer.choices[0].message.parsed
        assert answer.choices[0].finish_reason == "stop"
        assert isinstance(parsed, Verdict)


def test_an_object_is_an_object(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=TALK, response_format={"type": "json_object"}, n=4, max_tokens=200
    )
    for choice in answer.choices:
        text = choice.message.content or ""
        assert text.startswith("{")
        assert choice.finish_reason == "length" or isinstance(json.loads(text), dict)


def test_a_choice_and_an_expression_in_both_routes(client: OpenAI, model: str) -> None:
    extras: list[tuple[dict[str, Any], str]] = [
        ({"choice": ["yes", "no", "<|im_end|>"]}, r"yes|no|<\|im_end\|>"),
        ({"regex": "[ab]{2}-[0-9]{3}"}, "[ab]{2}-[0-9]{3}"),
    ]
    for extra, matches in extras:
        body = {"structured_outputs": extra}
        said = client.chat.completions.create(model=model, messages=TALK, n=3, extra_body=body)
        texts = [choice.message.content or "" for choice in said.choices]
        plain = client.completions.create(model=model, prompt=["a", "b"], extra_body=body)
        for text in (*texts, *(choice.text for choice in plain.choices)):
            assert re.fullmatch(matches, text), text


def test_streamed_choices_are_those_of_the_whole_answer(client: OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model, "messages": TALK, "n": 3, "seed": 5, "max_tokens": 24,
        "presence_penalty": 0.5, "logit_bias": {"100": -100}, "extra_body": {"top_k": 40},
    }  # fmt: skip
    whole = client.chat.completions.create(**asked)
    texts = ["", "", ""]
    ends: list[str | None] = [None, None, None]
    usage = None
    options = {"include_usage": True}
    streamed = asked | {"stream": True, "stream_options": options}
    for chunk in client.chat.completions.create(**streamed):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert len(set(texts)) == 3
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    alone = client.chat.completions.create(**(asked | {"n": 1}))
    assert alone.choices[0].message.content == texts[0]


def test_what_cannot_be_enforced_is_a_400_that_names_its_place(client: OpenAI, model: str) -> None:
    wrong: list[tuple[Any, str]] = [
        ({"not": {}}, "response_format.json_schema.schema.not"),
        ({"$ref": "#/$defs/none"}, "response_format.json_schema.schema"),
        ({"type": "string", "pattern": "a(?=b)"}, "response_format.json_schema.schema"),
    ]
    for schema, param in wrong:
        form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=model, messages=TALK, response_format=form)
        assert (caught.value.code, caught.value.param) == ("invalid_schema", param)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=model, prompt="a", logit_bias={"4000": 1})
    assert caught.value.param == "logit_bias.4000"
