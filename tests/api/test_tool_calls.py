"""Tools and reasoning through the official client, over an engine that says what it is told."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from purvey.contracts.limits import LIMITS
from purvey.testing.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": PLACE | {"additionalProperties": False},
        "strict": True,
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "get-time", "strict": True}}
TOOLS: Any = [WEATHER, CLOCK]
TOLD: dict[str, Any] = {"role": "tool", "content": "x", "tool_call_id": "1"}
ARGUMENTS = '{"city": "M\u00fcnchen </tool_call> \U0001f600"}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
TIME = '<tool_call>\n{"name": "get-time", "arguments": {}}\n</tool_call>'


def saying(text: str) -> Any:  # the SDK's union of message types
    """Make the engine, which says the last turn again, say a text."""
    return [{"role": "user", "content": text}]


def test_calls_are_told_apart_from_content(sdk: OpenAI, echo: str) -> None:
    messages = saying(f"Let me look.\n{CALL}\n{TIME}")
    answer = sdk.chat.completions.create(model=echo, messages=messages, tools=TOOLS)
    ChatCompletion.model_validate(answer.to_dict())
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look.\n"
    first, second = choice.message.tool_calls or []
    assert first.id != second.id
    assert first.id.startswith("call_")
    assert first.type == second.type == "function"
    assert (first.function.name, first.function.arguments) == ("get_weather", ARGUMENTS)
    assert (second.function.name, second.function.arguments) == ("get-time", "{}")


def test_content_is_null_beside_calls_alone(sdk: OpenAI, echo: str) -> None:
    answer = sdk.chat.completions.create(model=echo, messages=saying(CALL), tools=TOOLS)
    assert answer.choices[0].message.content is None


def test_a_stream_begins_a_call_with_id_and_name(sdk: OpenAI, echo: str) -> None:
    asked: Any = {"model": echo, "messages": saying(f"So: {CALL}{TIME}"), "tools": TOOLS}
    chunks = list(sdk.chat.completions.create(**asked, stream=True))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.to_dict())
    news = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    for index, (name, arguments) in enumerate([("get_weather", ARGUMENTS), ("get-time", "{}")]):
        begin, *rest = [one for one in news if one.index == index]
        assert begin.id is not None
        assert begin.id.startswith("call_")
        assert begin.function is not None
        assert (begin.type, begin.function.name) == ("function", name)
        assert all(one.id is None and one.function and one.function.name is None for one in rest)
        told = [one.function.arguments or "" for one in (begin, *rest) if one.function]
        assert "".join(told) == arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert content == "So: "


def test_the_clients_own_stream_puts_calls_together(sdk: OpenAI, echo: str) -> None:
    asked: Any = {"model": echo, "messages": saying(CALL + TIME), "tools": TOOLS}
    with sdk.chat.completions.stream(**asked) as stream:
        done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert [(e.name, e.parsed_arguments) for e in done] == [
        ("get_weather", json.loads(ARGUMENTS)),
        ("get-time", {}),
    ]
    calls = final.choices[0].message.tool_calls or []
    assert [call.function.arguments for call in calls] == [ARGUMENTS, "{}"]
    assert final.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_a_call_that_must_be_is_streamed_as_it_comes(sdk: OpenAI, echo: str, choice: Any) -> None:
    asked: Any = {"model": echo, "messages": saying(CALL), "tools": TOOLS, "tool_choice": choice}
    chunks = list(sdk.chat.completions.create(**asked, stream=True))
    news = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    pieces = [one.function.arguments or "" for one in news if one.function]
    assert len(pieces) > 10
    assert "".join(pieces) == ARGUMENTS
    unforced = sdk.chat.completions.create(**(asked | {"messages": saying("no call")}))
    call = (unforced.choices[0].message.tool_calls or [])[0]
    assert json.loads(call.function.arguments) == {"city": ""}


def test_one_call_ends_the_answer_where_calls_are_not_parallel(sdk: OpenAI, echo: str) -> None:
    answer = sdk.chat.completions.create(
        model=echo, messages=saying(CALL + TIME), tools=TOOLS, parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls or []) == 1
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.usage is not None
    assert answer.usage.completion_tokens < len(CALL)


MALFORMED = {
    "unknown function": '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
    "no JSON": "<tool_call>get_weather(city)</tool_call>",
    "broken arguments": '<tool_call>{"name": "get_weather", "arguments": {"city": }}</tool_call>',
    "arguments that are a list": '<tool_call>{"name": "get_weather", "arguments": []}</tool_call>',
    "cut off": '<tool_call>{"name": "get_weather", "arg',
    "a mark's beginning": "a <tool_ca",
    "only blanks": " \n",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_call_is_content_to_the_character(sdk: OpenAI, echo: str, text: str) -> None:
    asked: Any = {"model": echo, "messages": saying(text), "tools": TOOLS}
    whole = sdk.chat.completions.create(**asked).choices[0]
    assert (whole.message.content, whole.message.tool_calls) == (text, None)
    assert whole.finish_reason == "stop"
    chunks = sdk.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text


def test_a_call_behind_one_that_is_none_is_found(sdk: OpenAI, echo: str) -> None:
    wrong = MALFORMED["unknown function"]
    answer = sdk.chat.completions.create(model=echo, messages=saying(wrong + CALL), tools=TOOLS)
    assert answer.choices[0].message.content == wrong
    assert len(answer.choices[0].message.tool_calls or []) == 1


@pytest.mark.parametrize("asked", [{"tool_choice": "none", "tools": TOOLS}, {}])
def test_without_tools_a_call_is_text(
    sdk: OpenAI, echo: str, engine_of: Callable[[str], ScriptedEngine], asked: Any
) -> None:
    answer = sdk.chat.completions.create(model=echo, messages=saying(CALL), **asked)
    assert answer.choices[0].message.content == CALL
    request: Any = engine_of(echo).requests[-1]
    assert request.prompt.tools == ()


def test_reasoning_is_told_apart_and_counted(sdk: OpenAI, echo: str) -> None:
    asked: Any = {"model": echo, "messages": saying("<think>\nhm, so\n</think>\n\nYes.")}
    answer = sdk.chat.completions.create(**asked)
    message: Any = answer.choices[0].message
    assert (message.reasoning_content, message.content) == ("hm, so", "Yes.")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    num_reasoning = answer.usage.completion_tokens_details.reasoning_tokens
    assert num_reasoning == len("\nhm, so\n</think>")
    options: Any = {"include_usage": True}
    *chunks, last = sdk.chat.completions.create(**asked, stream=True, stream_options=options)
    pieces: list[Any] = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(p, "reasoning_content", None) or "" for p in pieces) == "hm, so"
    assert "".join(p.content or "" for p in pieces) == "Yes."
    assert last.usage is not None
    assert last.usage.completion_tokens_details is not None
    assert last.usage.completion_tokens_details.reasoning_tokens == num_reasoning


def test_an_answer_is_sent_back_as_it_came(
    sdk: OpenAI, echo: str, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    asked: Any = {"model": echo, "tools": TOOLS}
    first = sdk.chat.completions.create(**asked, messages=saying(f"<think>hm</think>{CALL}"))
    message = first.choices[0].message
    call = (message.tool_calls or [])[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    talk: Any = [*saying("weather?"), message.to_dict(), result]
    second = sdk.chat.completions.create(**asked, messages=talk)
    assert second.choices[0].message.content == "sunny"
    request: Any = engine_of(echo).requests[-1]
    turn, told = request.prompt.messages[1:]
    assert (turn.content, turn.reasoning, turn.tool_calls[0].id) == ("", "hm", call.id)
    assert json.loads(turn.tool_calls[0].arguments) == json.loads(ARGUMENTS)
    assert told.tool_call_id == call.id


def test_a_model_is_told_of_tools_as_they_were_given(
    sdk: OpenAI, echo: str, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    switches = {"chat_template_kwargs": {"enable_thinking": False}}
    sdk.chat.completions.create(model=echo, messages=saying("x"), tools=TOOLS, extra_body=switches)
    request: Any = engine_of(echo).requests[-1]
    given = json.loads(request.prompt.tools[0].definition)
    assert given == {k: v for k, v in WEATHER["function"].items() if k != "strict"}
    assert request.prompt.enable_thinking is False


def _function(**changes: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f"} | changes}]}


def _called(**changes: Any) -> dict[str, Any]:
    call: dict[str, Any] = {"id": "1", "type": "function"}
    call["function"] = {"name": "f", "arguments": "{}"} | changes
    return {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}


AT = "tools.0.function"
CALLED = "messages.0.tool_calls.0.function"
INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "a name with a space": (_function(name="f g"), f"{AT}.name"),
    "a name of 65": (_function(name="f" * 65), f"{AT}.name"),
    "a name that ends with a break": (_function(name="f\n"), f"{AT}.name"),
    "no name": ({"tools": [{"type": "function", "function": {}}]}, f"{AT}.name"),
    "an unknown key": (_function(paramters={}), f"{AT}.paramters"),
    "another type": ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type"),
    "parameters as text": (_function(parameters="{}"), f"{AT}.parameters"),
    "strict as text": (_function(strict="yes"), f"{AT}.strict"),
    "the same name twice": ({"tools": [CLOCK, CLOCK]}, "tools.1.function.name"),
    "too many": (
        {"tools": [_function(name=f"f{i}")["tools"][0] for i in range(LIMITS.tools + 1)]},
        "tools",
    ),
    "too long": (_function(description="x" * LIMITS.tools_chars), "tools"),
    "must call nothing": ({"tool_choice": "required"}, "tool_choice"),
    "an unheard of choice": ({"tools": [CLOCK], "tool_choice": "any"}, "tool_choice"),
    "a choice that is no tool": (
        {"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice.function.name",
    ),
    "a choice with more": (
        {"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "g", "x": 1}}},
        "tool_choice.function.x",
    ),
    "arguments that are no JSON": (_called(arguments="{"), f"{CALLED}.arguments"),
    "arguments with a key twice": (_called(arguments='{"a":1,"a":2}'), f"{CALLED}.arguments"),
    "arguments with half a pair": (_called(arguments='{"a":"\\ud800"}'), f"{CALLED}.arguments"),
    "arguments that are a list": (_called(arguments="[]"), f"{CALLED}.arguments"),
    "a call with more": (_called(extra=1), f"{CALLED}.extra"),
    "a call by a user": (
        {"messages": [_called()["messages"][0] | {"role": "user"}]},
        "messages.0.tool_calls",
    ),
    "the same id twice": (
        {"messages": _called()["messages"] * 2},
        "messages.1.tool_calls",
    ),
    "an answer to no call": (
        {"messages": [*_called()["messages"], TOLD | {"tool_call_id": "2"}]},
        "messages.1.tool_call_id",
    ),
    "an answer before the call": (
        {"messages": [TOLD, *_called()["messages"]]},
        "messages.0.tool_call_id",
    ),
    "a tool without an id": (
        {"messages": [*_called()["messages"], {"role": "tool", "content": "x"}]},
        "messages.1.tool_call_id",
    ),
    "a user with an id": (
        {"messages": [*_called()["messages"], TOLD | {"role": "user"}]},
        "messages.1.tool_call_id",
    ),
    "an unknown switch": ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs.x"),
}  # fmt: skip
SCHEMAS: dict[str, tuple[dict[str, Any], str]] = {
    "a text": ({"type": "string"}, "type"),
    "an unknown keyword": ({"type": "object", "propertees": {}}, "propertees"),
    "an unsupported keyword": ({"properties": {"a": {"not": {}}}}, "properties.a.not"),
    "a reference": ({"$ref": "#/$defs/a", "$defs": {"a": {}}}, "$ref"),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_is_wrong_is_refused_by_place(
    http: httpx2.Client, echo: str, refused: "Refusal", name: str
) -> None:
    body, param = INVALID[name]
    whole = {"model": echo, "messages": saying("x"), **body}
    refused(http.post("/v1/chat/completions", json=whole), 400, "invalid_value", param)


@pytest.mark.parametrize("name", SCHEMAS)
def test_parameters_are_a_schema_that_is_enforced(
    http: httpx2.Client, echo: str, refused: "Refusal", name: str
) -> None:
    schema, param = SCHEMAS[name]
    body = {"model": echo, "messages": saying("x"), **_function(parameters=schema)}
    answer = http.post("/v1/chat/completions", json=body)
    refused(answer, 400, "invalid_schema", f"{AT}.parameters.{param}")


def test_a_format_beside_tools_is_refused(
    http: httpx2.Client, echo: str, refused: "Refusal"
) -> None:
    body: dict[str, Any] = {"model": echo, "messages": saying("x"), "tools": TOOLS}
    form = {"response_format": {"type": "json_object"}}
    answer = http.post("/v1/chat/completions", json=body | form)
    refused(answer, 400, "unsupported_value", "response_format")
    answer = http.post("/v1/chat/completions", json=body | form | {"tool_choice": "none"})
    assert answer.status_code == 200
