"""Chat through the official client: whole and streamed, every documented parameter."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import BadRequestError, NotFoundError, OpenAI, UnprocessableEntityError
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from purvey.errors import CapacityError, ContextLengthError
from purvey.testing.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

HELLO: Any = [{"role": "user", "content": "hello"}]  # the SDK's union of message types


def test_an_answer_has_every_field_of_the_sdk(sdk: OpenAI, echo: str) -> None:
    answer = sdk.chat.completions.create(model=echo, messages=HELLO)
    ChatCompletion.model_validate(answer.to_dict())
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.content == "hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("user: hello\n")
    assert answer.usage.completion_tokens == len("hello")
    assert answer.usage.total_tokens == len("user: hello\n") + len("hello")


def test_a_stream_says_the_same_in_chunks(sdk: OpenAI, echo: str) -> None:
    chunks = list(sdk.chat.completions.create(model=echo, messages=HELLO, stream=True))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.to_dict())
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "hello"
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_tells_how_much_of_the_prompt_was_known(sdk: OpenAI, echo: str) -> None:
    messages: Any = [{"role": "user", "content": "a prompt that is long enough " * 3}]
    known: list[int | None] = []
    for _ in range(2):
        answer = sdk.chat.completions.create(model=echo, messages=messages)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        known.append(answer.usage.prompt_tokens_details.cached_tokens)
    assert known == [0, 64]
    *_, last = sdk.chat.completions.create(
        model=echo, messages=messages, stream=True, stream_options={"include_usage": True}
    )
    assert last.usage is not None
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == 64


def test_the_usage_chunk_comes_last_when_asked_for(sdk: OpenAI, echo: str) -> None:
    chunks = list(
        sdk.chat.completions.create(
            model=echo, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len("hello")


def test_the_frames_of_a_stream_are_openais(http: httpx2.Client, echo: str) -> None:
    body = {"model": echo, "messages": HELLO, "stream": True}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all(event.startswith('data: {"id":"chatcmpl-') for event in events)


def test_a_stop_string_ends_the_output_and_is_not_part_of_it(sdk: OpenAI, echo: str) -> None:
    for stop in ("l", ["zz", "l"]):
        answer = sdk.chat.completions.create(model=echo, messages=HELLO, stop=stop)
        assert answer.choices[0].message.content == "he"
        assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("field", ["max_completion_tokens", "max_tokens"])
def test_the_length_asked_for_is_kept(sdk: OpenAI, echo: str, field: str) -> None:
    limit: Any = {field: 3}
    answer = sdk.chat.completions.create(model=echo, messages=HELLO, **limit)
    assert answer.choices[0].message.content == "hel"
    assert answer.choices[0].finish_reason == "length"


def test_an_unsaid_length_is_the_servers_default(sdk: OpenAI, echo: str) -> None:
    long: Any = [{"role": "user", "content": "x" * 300}]
    answer = sdk.chat.completions.create(model=echo, messages=long)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 256
    assert answer.choices[0].finish_reason == "length"


def test_an_unsaid_length_shrinks_to_what_the_context_leaves(sdk: OpenAI, echo: str) -> None:
    prompt_tokens = 4_096 - 10
    content = "x" * (prompt_tokens - len("user: \n"))
    long: Any = [{"role": "user", "content": content}]
    answer = sdk.chat.completions.create(model=echo, messages=long)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 10


def test_logprobs_come_for_every_token(sdk: OpenAI, echo: str) -> None:
    answer = sdk.chat.completions.create(model=echo, messages=HELLO, logprobs=True, top_logprobs=3)
    ChatCompletion.model_validate(answer.to_dict())
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [token.token for token in logprobs.content] == list("hello")
    assert all(len(token.top_logprobs) == 3 for token in logprobs.content)
    assert logprobs.content[0].bytes == [ord("h")]


def test_streamed_logprobs_are_those_of_the_whole(sdk: OpenAI, echo: str) -> None:
    asked: Any = {"model": echo, "messages": HELLO, "logprobs": True}
    whole = sdk.chat.completions.create(**asked)
    pieces: list[Any] = []
    for chunk in sdk.chat.completions.create(**asked, stream=True):
        logprobs = chunk.choices[0].logprobs
        pieces.extend(logprobs.content or [] if logprobs else [])
    assert whole.choices[0].logprobs is not None
    expected = whole.choices[0].logprobs.content
    assert expected is not None
    assert [p.to_dict() for p in pieces] == [e.to_dict() for e in expected]


def test_sampling_reaches_the_engine_as_asked(
    sdk: OpenAI, echo: str, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    sdk.chat.completions.create(
        model=echo, messages=HELLO, temperature=0.5, top_p=0.9, seed=7, stop=["a", "b"]
    )
    request: Any = engine_of(echo).requests[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.9, 7)
    assert sampling.stop == ("a", "b")


def test_what_an_answer_holds_can_be_sent_back(sdk: OpenAI, echo: str) -> None:
    answer = sdk.chat.completions.create(model=echo, messages=HELLO)
    turn: Any = answer.choices[0].message.model_dump()
    again: Any = [*HELLO, turn, {"role": "user", "content": "more"}]
    assert sdk.chat.completions.create(model=echo, messages=again).choices[0].message.content


def test_text_parts_and_developer_turns_are_read(
    sdk: OpenAI, echo: str, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    messages: Any = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    answer = sdk.chat.completions.create(model=echo, messages=messages)
    assert answer.choices[0].message.content == "ab"
    request: Any = engine_of(echo).requests[-1]
    assert request.prompt.messages[0].role == "system"


def test_fields_that_are_documented_as_ignored_are_accepted(sdk: OpenAI, echo: str) -> None:
    sdk.chat.completions.create(
        model=echo,
        messages=HELLO,
        user="me",
        store=False,
        metadata={"a": "b"},
        service_tier="auto",
        parallel_tool_calls=True,
        n=1,
        presence_penalty=0,
        response_format={"type": "text"},
        tools=[],
    )


UNSUPPORTED: dict[str, object] = {
    "functions": [{"name": "f"}],
    "modalities": ["text", "audio"],
    "audio": {"voice": "a", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "store": True,
    "service_tier": "priority",
    "reasoning_effort": "high",
    "web_search_options": {},
}


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_what_is_not_supported_yet_is_refused_by_name(
    http: httpx2.Client, echo: str, refused: "Refusal", field: str
) -> None:
    body = {"model": echo, "messages": HELLO, field: UNSUPPORTED[field]}
    refused(http.post("/v1/chat/completions", json=body), 400, "unsupported_value", field)


MESSAGES: dict[str, tuple[dict[str, Any], str]] = {
    "image": (
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
        "messages.0.content.0.type",
    ),
    "function": ({"role": "function", "name": "f", "content": "x"}, "messages.0.role"),
    "no content": ({"role": "user"}, "messages.0.content"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_that_are_not_supported_yet_are_refused_by_place(
    http: httpx2.Client, echo: str, refused: "Refusal", name: str
) -> None:
    message, param = MESSAGES[name]
    answer = http.post("/v1/chat/completions", json={"model": echo, "messages": [message]})
    refused(answer, 400, "unsupported_value", param)


def _saying(content: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}]}


INVALID: dict[str, tuple[dict[str, object], str]] = {
    "temperature above": ({"temperature": 2.1}, "temperature"),
    "temperature text": ({"temperature": "1"}, "temperature"),
    "top_p zero": ({"top_p": 0}, "top_p"),
    "no tokens": ({"max_completion_tokens": 0}, "max_completion_tokens"),
    "both lengths": ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
    "seed too large": ({"seed": 2**63}, "seed"),
    "five stops": ({"stop": list("abcde")}, "stop"),
    "empty stop": ({"stop": [""]}, "stop.0"),
    "21 alternatives": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "alternatives alone": ({"top_logprobs": 2}, "top_logprobs"),
    "stream options alone": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "stream as text": ({"stream": "yes"}, "stream"),
    "no messages": ({"messages": []}, "messages"),
    "a role unheard of": ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
    "object content": (_saying({"a": 1}), "messages.0.content"),
    "number content": (_saying([1]), "messages.0.content.0"),
    "long metadata": ({"metadata": {"a": "x" * 513}}, "metadata.a"),
    "empty model": ({"model": ""}, "model"),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_a_value_out_of_range_is_refused_by_name(
    http: httpx2.Client,
    echo: str,
    refused: "Refusal",
    engine_of: Callable[[str], ScriptedEngine],
    name: str,
) -> None:
    change, param = INVALID[name]
    http.post("/v1/chat/completions", json={"model": echo, "messages": HELLO})
    seen = len(engine_of(echo).requests)
    body = {"model": echo, "messages": HELLO} | change
    refused(http.post("/v1/chat/completions", json=body), 400, "invalid_value", param)
    assert len(engine_of(echo).requests) == seen, "the engine never sees an invalid request"


def test_a_misspelt_field_is_named_with_the_nearest(
    http: httpx2.Client, echo: str, refused: "Refusal"
) -> None:
    body = {"model": echo, "messages": HELLO, "temperatur": 1}
    answer = http.post("/v1/chat/completions", json=body)
    assert "'temperature'" in refused(answer, 400, "invalid_value", "temperatur")


def test_a_misspelt_field_deep_inside_is_named_too(
    http: httpx2.Client, echo: str, refused: "Refusal"
) -> None:
    part = {"type": "text", "txt": "a"}
    body = {"model": echo, "messages": [{"role": "user", "content": [part]}]}
    answer = http.post("/v1/chat/completions", json=body)
    message = refused(answer, 400, "invalid_value", "messages.0.content.0.txt")
    assert "'text'" in message


def test_an_unknown_model_is_not_found(sdk: OpenAI) -> None:
    with pytest.raises(NotFoundError) as raised:
        sdk.chat.completions.create(model="no-such", messages=HELLO)
    assert raised.value.code == "model_not_found"


def test_a_prompt_longer_than_the_context_is_refused(sdk: OpenAI, echo: str) -> None:
    long: Any = [{"role": "user", "content": "x" * 5_000}]
    with pytest.raises(BadRequestError) as raised:
        sdk.chat.completions.create(model=echo, messages=long)
    assert raised.value.code == "context_length_exceeded"


def test_a_classifier_does_not_chat(sdk: OpenAI, spam: str) -> None:
    with pytest.raises(UnprocessableEntityError) as raised:
        sdk.chat.completions.create(model=spam, messages=HELLO)
    assert (raised.value.code, raised.value.param) == ("method_unsupported", "model")


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_is_an_ordinary_answer(
    http: httpx2.Client,
    echo: str,
    refused: "Refusal",
    engine_of: Callable[[str], ScriptedEngine],
    stream: bool,
) -> None:
    body = {"model": echo, "messages": HELLO, "stream": stream, "max_tokens": 5}
    http.post("/v1/chat/completions", json=body)
    engine_of(echo).refusals.append(CapacityError("the queue is full."))
    refused(http.post("/v1/chat/completions", json=body), 503, "server_is_overloaded")
    engine_of(echo).refusals.append(ContextLengthError("too long."))
    refused(http.post("/v1/chat/completions", json=body), 400, "context_length_exceeded")
    assert http.post("/v1/chat/completions", json=body).status_code == 200, "and it goes on"
