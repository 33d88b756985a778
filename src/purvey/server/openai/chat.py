"""`/v1/chat/completions`: a conversation in, the next turn out, whole or streamed."""

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, Literal, NotRequired

from fastapi import Response
from typing_extensions import TypedDict

from purvey.contracts.engine import Delta, Finished
from purvey.contracts.ids import new_id
from purvey.server import sse
from purvey.server.answers import GenerationUsage, as_json, generation_usage
from purvey.server.documentation import also_streamed
from purvey.server.generation import (
    Asked,
    Choice,
    FinishReason,
    collect,
    fingerprint,
    finish_reason,
    running,
)
from purvey.server.native.profiles import with_profile
from purvey.server.openai.calling.answers import AnsweredCall, collected, streamed
from purvey.server.openai.chat_request import ChatRequest, asked
from purvey.server.openai.logprobs import ChatLogprobs, chat_logprobs
from purvey.server.openai.pictures import pictures
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes
from purvey.server.upstream.passing import PassedOn

routes = Routes(tag="Chat")
ChatFinishReason = FinishReason | Literal["tool_calls"]


class ChatAnswer(TypedDict):
    """The model's turn; content is null beside calls alone, and both extras are there if any."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[AnsweredCall]]


class ChatChoice(TypedDict):
    """One answer."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason


class ChatCompletion(TypedDict):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: GenerationUsage
    system_fingerprint: str


EXAMPLE = {
    "id": "chatcmpl-6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e",
    "object": "chat.completion",
    "created": 1795467000,
    "model": "ft:tiny:proj_default:docs:1f0c",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Return the current working directory.",
                "refusal": None,
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 19,
        "completion_tokens": 8,
        "total_tokens": 27,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    },
    "system_fingerprint": "fp_3b1f5c6d7e8f",
}
_HEAD = {k: v for k, v in EXAMPLE.items() if k not in {"choices", "usage"}} | {
    "object": "chat.completion.chunk"
}
_DELTA = {"index": 0, "delta": {"content": "Return"}, "logprobs": None, "finish_reason": None}


@routes.add(
    "POST",
    "/v1/chat/completions",
    scope="inference",
    returns=ChatCompletion,
    example=EXAMPLE,
    elsewhere=PassedOn(path="chat/completions", kind="chat", task="text-generation"),
    extra=also_streamed(sse.example({**_HEAD, "choices": [_DELTA]})),
)
async def create(call: Caller, body: ChatRequest) -> Response:
    """Answer a conversation.

    With `stream: true` the answer is a stream of server-sent events, each a
    `chat.completion.chunk`, closed by `[DONE]`; an error meanwhile is one event with `error`,
    and then the stream ends without `[DONE]`. A model of the task `image-text-to-text` takes as
    many image parts as rows of its training had, whose places in the prompt count as tokens do.
    """
    body = await with_profile(call, body, model=body.model)
    wanted = asked(body, await pictures(call, body.messages, model=body.model))
    if body.stream:
        return await sse.stream(call, _chunks(call, body, wanted))
    output = await while_present(call.request, collect(call, wanted))
    return as_json(
        {
            "id": new_id("chatcmpl-"),
            "object": "chat.completion",
            "created": int(call.services.clock.now()),
            "model": body.model,
            "choices": [_whole(body, number, one) for number, one in enumerate(output.choices)],
            "usage": generation_usage(
                output.prompt_tokens,
                output.completion_tokens,
                cached_tokens=output.cached_tokens,
                reasoning_tokens=output.reasoning_tokens,
            ),
            "system_fingerprint": output.fingerprint,
        }
    )


def _whole(body: ChatRequest, number: int, choice: Choice) -> ChatChoice:
    calls = collected(choice.calls)
    content = None if calls and not choice.text else choice.text
    message: ChatAnswer = {"role": "assistant", "content": content, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if calls:
        message["tool_calls"] = calls
    return {
        "index": number,
        "message": message,
        "logprobs": chat_logprobs(choice.tokens) if body.logprobs else None,
        "finish_reason": _reason(choice.reason, has_called=bool(calls)),
    }


def _reason(reason: FinishReason, *, has_called: bool) -> ChatFinishReason:
    return "tool_calls" if has_called and reason == "stop" else reason


async def _chunks(
    call: Call, body: ChatRequest, wanted: Asked
) -> AsyncGenerator[sse.Chunk | sse.Framed]:
    wants_usage = body.stream_options is not None and body.stream_options.include_usage
    head: dict[str, Any] = {  # JSON values
        "id": new_id("chatcmpl-"),
        "object": "chat.completion.chunk",
        "created": int(call.services.clock.now()),
        "model": body.model,
    }
    callers: set[int] = set()  # choices that have called
    texts: dict[int, Callable[[str], sse.Framed]] = {}  # by choice: most chunks are but text
    async with running(call, wanted) as run:
        head["system_fingerprint"] = fingerprint(run.record)
        if wants_usage:
            head["usage"] = None
        async for number, event in run.events:
            if isinstance(event, Delta) and number in texts and _is_text(event):
                yield texts[number](event.text)
            elif isinstance(event, Delta):
                if event.calls:
                    callers.add(number)
                logprobs = chat_logprobs(event.tokens) if body.logprobs else None
                for delta in _news(event):
                    yield head | _part(number, delta, logprobs)
                    logprobs = None
            elif isinstance(event, Finished):
                reason = _reason(finish_reason(event), has_called=number in callers)
                yield head | _part(number, {}, None, reason)
            else:
                begin = {"role": "assistant", "content": "", "refusal": None}
                yield head | _part(number, begin, None)
                if not body.logprobs:
                    texts[number] = sse.around(partial(_with_text, head, number))
        usage = generation_usage(
            run.tally.input_tokens,
            run.tally.output_tokens,
            cached_tokens=run.tally.cached_tokens,
            reasoning_tokens=run.tally.reasoning_tokens,
        )
    if wants_usage:
        yield head | {"choices": [], "usage": usage}


def _is_text(event: Delta) -> bool:
    return bool(event.text) and not event.reasoning and not event.calls


def _with_text(head: dict[str, Any], number: int, text: str) -> dict[str, Any]:
    return head | _part(number, {"content": text}, None)


def _news(event: Delta) -> list[dict[str, Any]]:
    """Split an engine's delta into OpenAI's, of one thing each: clients put them together so."""
    news: list[dict[str, Any]] = []
    if event.reasoning:
        news.append({"reasoning_content": event.reasoning})
    if event.text:
        news.append({"content": event.text})
    news += [{"tool_calls": [streamed(one)]} for one in event.calls]
    return news or ([{"content": ""}] if event.tokens else [])


def _part(
    number: int,
    delta: dict[str, Any],  # JSON values
    logprobs: ChatLogprobs | None,
    reason: ChatFinishReason | None = None,
) -> dict[str, Any]:
    choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    return {"choices": [choice]}
