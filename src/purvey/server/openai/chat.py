"""`/v1/chat/completions`: a conversation in, the next turn out, whole or streamed."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any, ClassVar, Literal

from fastapi import Response
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from purvey.contracts.engine import ChatPrompt, Delta, Finished
from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError
from purvey.server import sse
from purvey.server.answers import TokenUsage, as_json, token_usage
from purvey.server.documentation import also_streamed
from purvey.server.generation import (
    Asked,
    FinishReason,
    MaxTokens,
    Seed,
    Stop,
    Temperature,
    TopP,
    collect,
    fingerprint,
    finish_reason,
    running,
    sampling_of,
)
from purvey.server.openai.conversation import Message, turns
from purvey.server.openai.logprobs import ChatLogprobs, chat_logprobs
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes
from purvey.server.validation import Body, Metadata

routes = Routes(tag="Chat")
IGNORED = "Accepted and ignored."
NOT_YET = "Not supported yet: only the value that asks for nothing is accepted."


class StreamOptions(Body):
    """How a stream is sent."""

    include_usage: bool = Field(False, description="Send a last chunk with the token counts.")
    include_obfuscation: bool = Field(False, description=IGNORED)


class ChatRequest(Body):
    """What to answer, and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "ft:tiny:proj_default:docs:1f0c",
                "messages": [{"role": "user", "content": "What does os.getcwd() do?"}],
                "max_completion_tokens": 64,
                "temperature": 0,
            }
        }
    )
    accepts_only: ClassVar[dict[str, tuple[object, ...]]] = {
        "n": (None, 1),
        "frequency_penalty": (None, 0),
        "presence_penalty": (None, 0),
        "logit_bias": (None, {}),
        "tools": (None, []),
        "tool_choice": (None, "none", "auto"),
        "functions": (None, []),
        "function_call": (None, "none", "auto"),
        "response_format": (None, {"type": "text"}),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "prediction": (None,),
        "moderation": (None,),
        "reasoning_effort": (None, "none"),
        "store": (None, False),
        "service_tier": (None, "auto", "default"),
        "verbosity": (None, "medium"),
        "web_search_options": (None,),
    }

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=LIMITS.messages)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = Field(None, description="0 is greedy; 1 unless given.")
    top_p: TopP | None = None
    seed: Seed | None = Field(None, description="The same seed gives the same tokens.")
    stop: Stop = None
    max_completion_tokens: MaxTokens | None = Field(
        None, description="Output tokens at most; the server's default unless given."
    )
    max_tokens: MaxTokens | None = Field(None, description="Older name of the same.")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=LIMITS.top_logprobs)] | None = None
    n: object = Field(None, description=NOT_YET)
    frequency_penalty: object = Field(None, description=NOT_YET)
    presence_penalty: object = Field(None, description=NOT_YET)
    logit_bias: object = Field(None, description=NOT_YET)
    tools: object = Field(None, description=NOT_YET)
    tool_choice: object = Field(None, description=NOT_YET)
    functions: object = Field(None, description=NOT_YET)
    function_call: object = Field(None, description=NOT_YET)
    response_format: object = Field(None, description=NOT_YET)
    modalities: object = Field(None, description=NOT_YET)
    audio: object = Field(None, description=NOT_YET)
    prediction: object = Field(None, description=NOT_YET)
    moderation: object = Field(None, description=NOT_YET)
    reasoning_effort: object = Field(None, description=NOT_YET)
    store: object = Field(None, description=NOT_YET)
    service_tier: object = Field(None, description=NOT_YET)
    verbosity: object = Field(None, description=NOT_YET)
    web_search_options: object = Field(None, description=NOT_YET)
    parallel_tool_calls: bool | None = Field(None, description=IGNORED)
    user: str | None = Field(None, description=IGNORED)
    metadata: Metadata | None = Field(None, description=IGNORED)
    safety_identifier: str | None = Field(None, description=IGNORED)
    prompt_cache_key: str | None = Field(None, description=IGNORED)
    prompt_cache_options: object = Field(None, description=IGNORED)
    prompt_cache_retention: str | None = Field(None, description=IGNORED)


class ChatAnswer(TypedDict):
    """The model's turn."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    """One answer."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(TypedDict):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
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
    "usage": {"prompt_tokens": 19, "completion_tokens": 8, "total_tokens": 27},
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
    extra=also_streamed(sse.example({**_HEAD, "choices": [_DELTA]})),
)
async def create(call: Caller, body: ChatRequest) -> Response:
    """Answer a conversation.

    With `stream: true` the answer is a stream of server-sent events, each a
    `chat.completion.chunk`, closed by `[DONE]`; an error meanwhile is one event with `error`,
    and then the stream ends without `[DONE]`.
    """
    asked = _asked(body)
    if body.stream:
        return await sse.stream(call, _chunks(call, body, asked))
    output = await while_present(call.request, collect(call, asked))
    return as_json(
        {
            "id": new_id("chatcmpl-"),
            "object": "chat.completion",
            "created": int(call.services.clock.now()),
            "model": body.model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": output.text, "refusal": None},
                    "logprobs": chat_logprobs(output.tokens) if body.logprobs else None,
                    "finish_reason": output.reason,
                }
            ],
            "usage": token_usage(output.prompt_tokens, output.completion_tokens),
            "system_fingerprint": output.fingerprint,
        }
    )


def _asked(body: ChatRequest) -> Asked:
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise InvalidValueError(
            "give either max_completion_tokens or max_tokens.", param="max_tokens"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidValueError("top_logprobs needs logprobs: true.", param="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise InvalidValueError("stream_options needs stream: true.", param="stream_options")
    sampling = sampling_of(
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=body.stop,
        num_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    return Asked(
        kind="chat",
        model=body.model,
        prompt=ChatPrompt(messages=turns(body.messages)),
        sampling=sampling,
        needs_template=True,
    )


async def _chunks(call: Call, body: ChatRequest, asked: Asked) -> AsyncGenerator[sse.Chunk]:
    wants_usage = body.stream_options is not None and body.stream_options.include_usage
    head: dict[str, Any] = {  # JSON values
        "id": new_id("chatcmpl-"),
        "object": "chat.completion.chunk",
        "created": int(call.services.clock.now()),
        "model": body.model,
    }
    usage: TokenUsage | None = None
    async with running(call, asked) as run:
        head["system_fingerprint"] = fingerprint(run.record)
        if wants_usage:
            head["usage"] = None
        async for event in run.events:
            if isinstance(event, Delta):
                if event.text or event.tokens:
                    logprobs = chat_logprobs(event.tokens) if body.logprobs else None
                    yield head | _choice({"content": event.text}, logprobs)
            elif isinstance(event, Finished):
                yield head | _choice({}, None, finish_reason(event))
                usage = token_usage(event.prompt_tokens, event.completion_tokens)
            else:
                yield head | _choice({"role": "assistant", "content": "", "refusal": None}, None)
    if wants_usage:
        yield head | {"choices": [], "usage": usage}


def _choice(
    delta: dict[str, Any],  # JSON values
    logprobs: ChatLogprobs | None,
    reason: FinishReason | None = None,
) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    return {"choices": [choice]}
