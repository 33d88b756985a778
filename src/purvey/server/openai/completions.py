"""`/v1/completions`: plain text or token ids in, their continuation out."""

from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from fastapi import Response
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from purvey.contracts.engine import Delta, Finished, Started, TextPrompt, TokenLogprob, TokenPrompt
from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.errors import ContextLengthError, InvalidValueError
from purvey.server import sse
from purvey.server.answers import GenerationUsage, as_json, generation_usage
from purvey.server.documentation import also_streamed
from purvey.server.generation import (
    Asked,
    FinishReason,
    collect,
    fingerprint,
    finish_reason,
    running,
)
from purvey.server.native.profiles import with_profile
from purvey.server.openai.logprobs import CompletionLogprobs, completion_logprobs
from purvey.server.openai.sampling_fields import (
    IGNORED,
    NOT_YET,
    MaxTokens,
    SamplingFields,
    StreamOptions,
    sampling_of,
)
from purvey.server.openai.structured.response_format import grammar_of
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes
from purvey.server.upstream.passing import PassedOn
from purvey.server.validation import FIRST_PROBLEM

routes = Routes(tag="Completions")
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[TokenId], FIRST_PROBLEM]
PromptGiven = (
    str | Tokens | Annotated[list[str], FIRST_PROBLEM] | Annotated[list[Tokens], FIRST_PROBLEM]
)


class CompletionRequest(SamplingFields):
    """What to continue, and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"model": "stories", "prompt": "Once upon a time", "max_tokens": 32}
        }
    )
    accepts_only: ClassVar[dict[str, tuple[object, ...]]] = {
        "best_of": (None, 1),
        "suffix": (None,),
    }

    model: Annotated[str, Field(min_length=1, max_length=256)]
    prompt: PromptGiven = Field(
        description="Text or token ids, or a list of either: each is answered `n` times."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = Field(
        None, description="Output tokens at most; the server's default unless given."
    )
    logprobs: Annotated[int, Field(ge=0, le=LIMITS.top_logprobs)] | None = None
    echo: bool | None = Field(None, description="Give the prompt back before the output.")
    best_of: object = Field(None, description=NOT_YET)
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
    usage: GenerationUsage
    system_fingerprint: str


EXAMPLE = {
    "id": "cmpl-6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e",
    "object": "text_completion",
    "created": 1795467000,
    "model": "stories",
    "choices": [
        {"index": 0, "text": ", there was a girl.", "logprobs": None, "finish_reason": "stop"}
    ],
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 6,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    },
    "system_fingerprint": "fp_3b1f5c6d7e8f",
}


@routes.add(
    "POST",
    "/v1/completions",
    scope="inference",
    returns=Completion,
    example=EXAMPLE,
    elsewhere=PassedOn(path="completions", kind="completion", task="text-generation"),
    extra=also_streamed(sse.example(EXAMPLE)),
)
async def create(call: Caller, body: CompletionRequest) -> Response:
    """Continue a text.

    With `stream: true` the answer is a stream of server-sent events of the same shape, closed
    by `[DONE]`.
    """
    body = await with_profile(call, body, model=body.model)
    asked = _asked(body)
    if body.stream:
        return await sse.stream(call, _chunks(call, body, asked))
    output = await while_present(call.request, collect(call, asked))
    return as_json(
        _head(call, body)
        | {
            "choices": [
                _choice(body, number, one.text, one.tokens, 0, one.reason)
                for number, one in enumerate(output.choices)
            ],
            "usage": generation_usage(
                output.prompt_tokens,
                output.completion_tokens,
                cached_tokens=output.cached_tokens,
            ),
            "system_fingerprint": output.fingerprint,
        }
    )


def _asked(body: CompletionRequest) -> Asked:
    if body.stream_options is not None and not body.stream:
        raise InvalidValueError("stream_options needs stream: true.", param="stream_options")
    num_choices, prompts = body.n or 1, _prompts(body.prompt)
    if body.best_of is not None and num_choices > 1:
        raise InvalidValueError("best_of is less than n.", param="best_of")
    if len(prompts) * num_choices > LIMITS.request_choices:
        raise InvalidValueError(
            f"{len(prompts)} prompts times n are {len(prompts) * num_choices} answers; at most "
            f"{LIMITS.request_choices} are given to one request.",
            param="n" if num_choices > 1 else "prompt",
        )
    sampling = sampling_of(
        body,
        max_tokens=body.max_tokens,
        num_logprobs=body.logprobs,
        grammar=grammar_of(None, body.structured_outputs),
        echo=bool(body.echo),
    )
    return Asked(
        kind="completion",
        model=body.model,
        prompts=prompts,
        sampling=sampling,
        needs_template=False,
        num_choices=num_choices,
    )


def _prompts(given: PromptGiven) -> tuple[TextPrompt | TokenPrompt, ...]:
    listed = _listed(given)
    if sum(map(len, listed)) > LIMITS.prompt_chars:
        raise ContextLengthError(
            f"the prompt is longer than {LIMITS.prompt_chars} characters.", param="prompt"
        )
    return tuple(_prompt(one) for one in listed)


def _listed(given: PromptGiven) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    several: list[str | list[int]] = [one for one in given if not isinstance(one, int)]
    return several or [[one for one in given if isinstance(one, int)]]


def _prompt(given: str | list[int]) -> TextPrompt | TokenPrompt:
    if isinstance(given, str):
        return TextPrompt(text=given)
    if not given:
        raise InvalidValueError("the prompt is an empty list.", param="prompt")
    return TokenPrompt(tokens=tuple(given))


async def _chunks(
    call: Call, body: CompletionRequest, asked: Asked
) -> AsyncGenerator[sse.Chunk | sse.Framed]:
    wants_usage = body.stream_options is not None and body.stream_options.include_usage
    head = _head(call, body)
    starts = [0] * (len(asked.prompts) * asked.num_choices)
    texts: dict[int, Callable[[str], sse.Framed]] = {}  # by choice, where text is all there is
    async with running(call, asked) as run:
        head["system_fingerprint"] = fingerprint(run.record)
        if wants_usage:
            head["usage"] = None
        async for number, event in run.events:
            if isinstance(event, Delta) and number in texts:
                yield texts[number](event.text)
                continue
            start = starts[number]
            if isinstance(event, Started):
                choice = _choice(body, number, "", (), start, None)
                if body.logprobs is None:
                    texts[number] = sse.around(partial(_with_text, head, body, number))
            elif isinstance(event, Delta):
                choice = _choice(body, number, event.text, event.tokens, start, None)
                starts[number] += len(event.text)
            else:
                assert isinstance(event, Finished), "the last of three kinds"  # noqa: S101
                choice = _choice(body, number, "", (), start, finish_reason(event))
            yield head | {"choices": [choice]}
        usage = generation_usage(
            run.tally.input_tokens,
            run.tally.output_tokens,
            cached_tokens=run.tally.cached_tokens,
        )
    if wants_usage:
        yield head | {"choices": [], "usage": usage}


def _with_text(
    head: dict[str, Any], body: CompletionRequest, number: int, text: str
) -> dict[str, Any]:
    return head | {"choices": [_choice(body, number, text, (), 0, None)]}


def _head(call: Call, body: CompletionRequest) -> dict[str, Any]:
    return {  # JSON values
        "id": new_id("cmpl-"),
        "object": "text_completion",
        "created": int(call.services.clock.now()),
        "model": body.model,
    }


def _choice(
    body: CompletionRequest,
    number: int,
    text: str,
    tokens: Sequence[TokenLogprob],
    start: int,
    reason: FinishReason | None,
) -> CompletionChoice:
    logprobs = None
    if body.logprobs is not None:
        logprobs = completion_logprobs(tokens, start=start, has_alternatives=body.logprobs > 0)
    return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}
