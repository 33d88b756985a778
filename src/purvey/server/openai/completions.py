"""`/v1/completions`: plain text or token ids in, their continuation out."""

from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from fastapi import Response
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from purvey.contracts.engine import Delta, Finished, Started, TextPrompt, TokenLogprob, TokenPrompt
from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.errors import ContextLengthError, InvalidValueError, UnsupportedValueError
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
from purvey.server.openai.chat import IGNORED, NOT_YET, StreamOptions
from purvey.server.openai.logprobs import CompletionLogprobs, completion_logprobs
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes
from purvey.server.validation import FIRST_PROBLEM, Body

routes = Routes(tag="Completions")
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[TokenId], FIRST_PROBLEM]
PromptGiven = (
    str | Tokens | Annotated[list[str], FIRST_PROBLEM] | Annotated[list[Tokens], FIRST_PROBLEM]
)


class CompletionRequest(Body):
    """What to continue, and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"model": "stories", "prompt": "Once upon a time", "max_tokens": 32}
        }
    )
    accepts_only: ClassVar[dict[str, tuple[object, ...]]] = {
        "n": (None, 1),
        "best_of": (None, 1),
        "frequency_penalty": (None, 0),
        "presence_penalty": (None, 0),
        "logit_bias": (None, {}),
        "suffix": (None,),
    }

    model: Annotated[str, Field(min_length=1, max_length=256)]
    prompt: PromptGiven = Field(description="Text or token ids; a list of one is taken too.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = Field(None, description="0 is greedy; 1 unless given.")
    top_p: TopP | None = None
    seed: Seed | None = Field(None, description="The same seed gives the same tokens.")
    stop: Stop = None
    max_tokens: MaxTokens | None = Field(
        None, description="Output tokens at most; the server's default unless given."
    )
    logprobs: Annotated[int, Field(ge=0, le=LIMITS.top_logprobs)] | None = None
    echo: bool | None = Field(None, description="Give the prompt back before the output.")
    n: object = Field(None, description=NOT_YET)
    best_of: object = Field(None, description=NOT_YET)
    frequency_penalty: object = Field(None, description=NOT_YET)
    presence_penalty: object = Field(None, description=NOT_YET)
    logit_bias: object = Field(None, description=NOT_YET)
    suffix: object = Field(None, description=NOT_YET)
    user: str | None = Field(None, description=IGNORED)


class CompletionChoice(TypedDict):
    """One continuation."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(TypedDict):
    """A whole continuation, or one chunk of it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage
    system_fingerprint: str


EXAMPLE = {
    "id": "cmpl-6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e",
    "object": "text_completion",
    "created": 1795467000,
    "model": "stories",
    "choices": [
        {"index": 0, "text": ", there was a girl.", "logprobs": None, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11},
    "system_fingerprint": "fp_3b1f5c6d7e8f",
}


@routes.add(
    "POST",
    "/v1/completions",
    scope="inference",
    returns=Completion,
    example=EXAMPLE,
    extra=also_streamed(sse.example(EXAMPLE)),
)
async def create(call: Caller, body: CompletionRequest) -> Response:
    """Continue a text.

    With `stream: true` the answer is a stream of server-sent events of the same shape, closed
    by `[DONE]`.
    """
    asked = _asked(body)
    if body.stream:
        return await sse.stream(call, _chunks(call, body, asked))
    output = await while_present(call.request, collect(call, asked))
    choice = _choice(body, output.text, output.tokens, 0, output.reason)
    return as_json(
        _head(call, body)
        | {
            "choices": [choice],
            "usage": token_usage(output.prompt_tokens, output.completion_tokens),
            "system_fingerprint": output.fingerprint,
        }
    )


def _asked(body: CompletionRequest) -> Asked:
    if body.stream_options is not None and not body.stream:
        raise InvalidValueError("stream_options needs stream: true.", param="stream_options")
    sampling = sampling_of(
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        max_tokens=body.max_tokens,
        stop=body.stop,
        num_logprobs=body.logprobs,
        echo=bool(body.echo),
    )
    return Asked(
        kind="completion",
        model=body.model,
        prompt=_prompt(body.prompt),
        sampling=sampling,
        needs_template=False,
    )


def _prompt(given: PromptGiven) -> TextPrompt | TokenPrompt:
    if isinstance(given, list) and given and not isinstance(given[0], int):
        if len(given) > 1:
            raise UnsupportedValueError(
                "one prompt per request is supported so far.", param="prompt"
            )
        return _prompt(given[0])
    if len(given) > LIMITS.prompt_chars:
        raise ContextLengthError(
            f"the prompt is longer than {LIMITS.prompt_chars} characters.", param="prompt"
        )
    if isinstance(given, str):
        return TextPrompt(text=given)
    if not given:
        raise InvalidValueError("the prompt is an empty list.", param="prompt")
    return TokenPrompt(tokens=tuple(t for t in given if isinstance(t, int)))


async def _chunks(call: Call, body: CompletionRequest, asked: Asked) -> AsyncGenerator[sse.Chunk]:
    wants_usage = body.stream_options is not None and body.stream_options.include_usage
    head = _head(call, body)
    usage: TokenUsage | None = None
    offset = 0
    async with running(call, asked) as run:
        head["system_fingerprint"] = fingerprint(run.record)
        if wants_usage:
            head["usage"] = None
        async for event in run.events:
            if isinstance(event, Started):
                yield head | {"choices": [_choice(body, "", (), 0, None)]}
            elif isinstance(event, Delta):
                yield head | {"choices": [_choice(body, event.text, event.tokens, offset, None)]}
                offset += len(event.text)
            else:
                assert isinstance(event, Finished), "the last of three kinds"  # noqa: S101
                yield head | {"choices": [_choice(body, "", (), offset, finish_reason(event))]}
                usage = token_usage(event.prompt_tokens, event.completion_tokens)
    if wants_usage:
        yield head | {"choices": [], "usage": usage}


def _head(call: Call, body: CompletionRequest) -> dict[str, Any]:
    return {  # JSON values
        "id": new_id("cmpl-"),
        "object": "text_completion",
        "created": int(call.services.clock.now()),
        "model": body.model,
    }


def _choice(
    body: CompletionRequest,
    text: str,
    tokens: Sequence[TokenLogprob],
    start: int,
    reason: FinishReason | None,
) -> CompletionChoice:
    logprobs = None
    if body.logprobs is not None:
        logprobs = completion_logprobs(tokens, start=start, has_alternatives=body.logprobs > 0)
    return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason}
