"""Completions through the official client."""

from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import OpenAI
from openai.types import Completion

if TYPE_CHECKING:
    from tests.api.conftest import Refusal


def test_a_completion_has_every_field_of_the_sdk(sdk: OpenAI, echo: str) -> None:
    answer = sdk.completions.create(model=echo, prompt="hello")
    Completion.model_validate(answer.to_dict())
    assert answer.id.startswith("cmpl-")
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("hello", "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 5)


@pytest.mark.parametrize("prompt", ["hi", ["hi"], [104, 105], [[104, 105]]])
def test_a_prompt_is_text_or_token_ids(sdk: OpenAI, echo: str, prompt: Any) -> None:
    assert sdk.completions.create(model=echo, prompt=prompt).choices[0].text == "hi"


def test_a_stream_says_the_same_in_chunks(sdk: OpenAI, echo: str) -> None:
    chunks = list(
        sdk.completions.create(
            model=echo, prompt="hello", stream=True, stream_options={"include_usage": True}
        )
    )
    for chunk in chunks:
        assert chunk.object == "text_completion"
    assert "".join(c.choices[0].text for c in chunks[:-1]) == "hello"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 10


def test_echo_gives_the_prompt_back(sdk: OpenAI, echo: str) -> None:
    answer = sdk.completions.create(model=echo, prompt="hello", echo=True, max_tokens=2)
    assert answer.choices[0].text == "hellohe"
    assert answer.choices[0].finish_reason == "length"


def test_logprobs_are_aligned_lists(http: httpx2.Client, echo: str) -> None:
    body = {"model": echo, "prompt": "hey", "logprobs": 2}
    found = http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert found["tokens"] == ["h", "e", "y"]
    assert found["text_offset"] == [0, 1, 2]
    assert all(len(top) == 2 for top in found["top_logprobs"])
    assert len(found["token_logprobs"]) == 3


def test_streamed_logprobs_go_on_where_the_last_chunk_ended(sdk: OpenAI, echo: str) -> None:
    chunks = sdk.completions.create(model=echo, prompt="hey", logprobs=0, stream=True)
    offsets: list[int] = []
    for chunk in chunks:
        logprobs = chunk.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.top_logprobs is None
        offsets.extend(logprobs.text_offset or [])
    assert offsets == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"suffix": "x"}, "unsupported_value", "suffix"),
        ({"n": 129}, "invalid_value", "n"),
        ({"n": 65, "prompt": ["a", "b"]}, "invalid_value", "n"),
        ({"prompt": ["a"] * 129}, "invalid_value", "prompt"),
        ({"prompt": ["a", ""], "n": 0}, "invalid_value", "n"),
        ({"n": 2, "best_of": 1}, "invalid_value", "best_of"),
        ({"best_of": 3}, "unsupported_value", "best_of"),
        ({"logit_bias": {"1": 101}}, "invalid_value", "logit_bias.1"),
        ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias.x"),
        ({"logit_bias": {"01": 1}}, "invalid_value", "logit_bias.01"),
        ({"logit_bias": {"55296": -100}}, "invalid_value", "logit_bias.55296"),
        ({"prompt": [[1], []]}, "invalid_value", "prompt"),
        ({"response_format": {"type": "text"}}, "invalid_value", "response_format"),
        ({"prompt": []}, "invalid_value", "prompt"),
        ({"prompt": [-1]}, "invalid_value", "prompt.0"),
        ({"prompt": [1.5]}, "invalid_value", "prompt.0"),
        ({"logprobs": 21}, "invalid_value", "logprobs"),
        ({"logprobs": True}, "invalid_value", "logprobs"),
        ({"max_tokens": -1}, "invalid_value", "max_tokens"),
        ({"stream_options": {}}, "invalid_value", "stream_options"),
        ({"prompts": "x"}, "invalid_value", "prompts"),
    ],
)
def test_what_is_refused_is_refused_by_name(
    http: httpx2.Client,
    echo: str,
    refused: "Refusal",
    change: dict[str, object],
    code: str,
    param: str,
) -> None:
    body = {"model": echo, "prompt": "hello"} | change
    refused(http.post("/v1/completions", json=body), 400, code, param)
