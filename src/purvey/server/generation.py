"""One generation: a model held, a request metered, its events followed to the end."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal

import msgspec
from pydantic import Field

from purvey.contracts.engine import (
    Delta,
    EngineClient,
    Finished,
    Generate,
    GenerationEvent,
    Prompt,
    Sampling,
    Started,
    TokenLogprob,
)
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import ModelRecord
from purvey.errors import (
    ContextLengthError,
    MethodUnsupportedError,
    ShuttingDownError,
    WorkerCrashedError,
)
from purvey.server.metering import Tally, metered
from purvey.server.policy import Call
from purvey.telemetry import metrics

StopText = Annotated[str, Field(min_length=1, max_length=LIMITS.stop_chars)]
Stop = StopText | Annotated[list[StopText], Field(max_length=LIMITS.stop_sequences)] | None
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
MaxTokens = Annotated[int, Field(ge=1, le=2**31 - 1)]
FinishReason = Literal["stop", "length"]
GenerationKind = Literal["chat", "completion"]
_Generate = Callable[[Generate], AsyncGenerator[GenerationEvent]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A generation as a route asks for it.

    Args:
        kind: What the ledger calls it.
        model: Name of the model.
        prompt: What is continued.
        sampling: How tokens are chosen.
        needs_template: Whether the model must take conversations.
    """

    kind: GenerationKind
    model: str
    prompt: Prompt
    sampling: Sampling
    needs_template: bool


@dataclass(frozen=True, kw_only=True)
class Running:
    """A generation under way."""

    record: ModelRecord
    events: AsyncIterator[GenerationEvent]


@dataclass(kw_only=True)
class Output:
    """A finished generation."""

    fingerprint: str
    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    reason: FinishReason = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


def sampling_of(
    *,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    max_tokens: int | None,
    stop: Stop,
    num_logprobs: int | None,
    echo: bool = False,
) -> Sampling:
    """Resolve what a request leaves unsaid; an unsaid seed is drawn."""
    return Sampling(
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        seed=secrets.randbits(63) if seed is None else seed % 2**63,
        max_tokens=max_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        num_logprobs=num_logprobs,
        echo=echo,
    )


@asynccontextmanager
async def running(call: Call, asked: Asked) -> AsyncIterator[Running]:
    """Start a generation; leaving early cancels it. Metered either way.

    Raises:
        ModelNotFoundError: No such model, or another project's.
        MethodUnsupportedError: The model does not generate text, or takes no conversations.
        PurveyError: Whatever the engine refused it for.
    """
    async with (
        call.services.engines.use(call.project_id, asked.model) as (record, engine),
        metered(call, kind=asked.kind, model=record.name) as tally,
    ):
        check_generates(engine, record, needs_template=asked.needs_template)
        request = Generate(request_id=call.request_id, prompt=asked.prompt, sampling=asked.sampling)
        generate = partial(_generated, call, record, engine)
        events = _bounded(generate, request, call.services.defaults.default_max_tokens)
        followed = _followed(events, tally, call.services.clock.monotonic)
        async with aclosing(followed):
            yield Running(record=record, events=followed)


def check_generates(engine: EngineClient, record: ModelRecord, *, needs_template: bool) -> None:
    """Make sure that a model can do what is asked.

    Raises:
        MethodUnsupportedError: It does not generate text, or takes no conversations.
    """
    if engine.model.task != "text-generation":
        raise MethodUnsupportedError(
            f"the model {record.name!r} is for {engine.model.task}, not for generating text.",
            param="model",
            hint="Use /v1/classify or /v1/decisions.",
        )
    if needs_template and not engine.model.has_chat_template:
        raise MethodUnsupportedError(
            f"the model {record.name!r} has no chat template and takes no conversations.",
            param="model",
            hint="Use /v1/completions.",
        )


async def collect(call: Call, asked: Asked) -> Output:
    """Run a generation to its end.

    Raises:
        PurveyError: As `running` does.
    """
    parts: list[str] = []
    async with running(call, asked) as run:
        output = Output(fingerprint=fingerprint(run.record))
        async for event in run.events:
            if isinstance(event, Delta):
                parts.append(event.text)
                output.tokens.extend(event.tokens)
            elif isinstance(event, Finished):
                output.reason = finish_reason(event)
                output.prompt_tokens = event.prompt_tokens
                output.completion_tokens = event.completion_tokens
    output.text = "".join(parts)
    return output


def finish_reason(event: Finished) -> FinishReason:
    """Translate why a generation ended.

    Raises:
        ShuttingDownError: It did not end by itself.
    """
    if event.reason == "cancelled":
        raise ShuttingDownError("the generation was cut short by the server.")
    return event.reason


def fingerprint(record: ModelRecord) -> str:
    """Name the exact weights in the field that OpenAI has for it."""
    return f"fp_{record.digest[:12]}"


async def _bounded(
    generate: _Generate, request: Generate, default_max_tokens: int
) -> AsyncGenerator[GenerationEvent]:
    """Generate at most the server's default where the request names no length.

    Where the context leaves less than the default, the engine takes what is left.
    """
    is_open = request.sampling.max_tokens is None
    sampling = request.sampling
    if is_open:
        sampling = msgspec.structs.replace(sampling, max_tokens=default_max_tokens)
    attempt = msgspec.structs.replace(request, sampling=sampling)
    try:
        async with aclosing(generate(attempt)) as events:
            async for event in events:
                yield event
    except ContextLengthError:
        if not is_open:
            raise
    else:
        return
    async with aclosing(generate(request)) as events:
        async for event in events:
            yield event


async def _generated(
    call: Call, record: ModelRecord, engine: EngineClient, request: Generate
) -> AsyncGenerator[GenerationEvent]:
    """Generate; one whose turn had not come when the engine died is given to the next engine.

    Only once, and only by the same model: what was told of an answer is never told anew.
    """
    has_begun = False
    try:
        async with aclosing(_closable(engine.generate(request))) as events:
            async for event in events:
                has_begun = True
                yield event
    except WorkerCrashedError:
        if has_begun:
            raise
    else:
        return
    async with call.services.engines.use(call.project_id, record.name) as (now, following):
        if now.digest != record.digest:
            raise WorkerCrashedError("the engine process died, and the model is another one now.")
        async with aclosing(_closable(following.generate(request))) as events:
            async for event in events:
                yield event


def _closable(events: AsyncIterator[GenerationEvent]) -> AsyncGenerator[GenerationEvent]:
    assert isinstance(events, AsyncGenerator), "engines stream from async generators"  # noqa: S101
    return events


async def _followed(
    events: AsyncGenerator[GenerationEvent], tally: Tally, monotonic: Callable[[], float]
) -> AsyncGenerator[GenerationEvent]:
    """Pass events on and keep the tally true at every moment."""
    started_at, has_output = monotonic(), False
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Started):
                tally.input_tokens = event.prompt_tokens
            elif isinstance(event, Delta):
                tally.output_tokens += event.num_tokens
                if not has_output:
                    has_output = True
                    metrics.TTFT_SECONDS.observe(monotonic() - started_at)
            else:
                tally.input_tokens = event.prompt_tokens
                tally.output_tokens = event.completion_tokens
            yield event
