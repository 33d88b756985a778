"""Generations: a model held, a request metered, the events of its answers followed to the end."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import msgspec

from purvey.contracts.chat.tools import CallDelta
from purvey.contracts.engine import (
    Delta,
    EngineClient,
    Finished,
    Generate,
    GenerationEvent,
    Prompt,
    Started,
    TokenLogprob,
)
from purvey.contracts.model import GENERATING
from purvey.contracts.records import ModelRecord
from purvey.contracts.sampling import Sampling
from purvey.errors import (
    ContextLengthError,
    MethodUnsupportedError,
    ShuttingDownError,
    WorkerCrashedError,
)
from purvey.server.metering import Tally, metered
from purvey.server.policy import Call
from purvey.telemetry import metrics

FinishReason = Literal["stop", "length"]
GenerationKind = Literal["chat", "completion"]
Numbered = tuple[int, GenerationEvent]
"""An event and the number of the choice that it is about."""
_Begun = tuple[GenerationEvent, AsyncGenerator[GenerationEvent]]
"""The first event and those that follow."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Generations as a route asks for them.

    Args:
        kind: What the ledger calls it.
        model: Name of the model.
        prompts: What is continued, each `num_choices` times: choice `i` continues prompt
            `i // num_choices`.
        sampling: How tokens are chosen; `choice_seed` says with which seeds.
        needs_template: Whether the model must take conversations.
    """

    kind: GenerationKind
    model: str
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    needs_template: bool
    num_choices: int = 1


@dataclass(frozen=True, kw_only=True)
class Running:
    """Generations under way; `tally` is true at every moment."""

    record: ModelRecord
    events: AsyncIterator[Numbered]
    tally: Tally


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Who generates: an engine of a model, and by what name another one is had."""

    call: Call
    name: str
    record: ModelRecord
    engine: EngineClient


@dataclass(kw_only=True)
class Choice:
    """One finished generation; `calls` is all that was told of them."""

    text: str = ""
    reasoning: str = ""
    calls: list[CallDelta] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)
    reason: FinishReason = "stop"


@dataclass(kw_only=True)
class Output:
    """Finished generations in the order of their numbers; a prompt is counted once."""

    fingerprint: str
    choices: list[Choice]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int


def choice_seed(seed: int, choice: int) -> int:
    """Return the seed of one of the choices of a prompt; the first has the request's own.

    So the first of many is what is answered when one is asked for, and a prompt's answers do
    not depend on the prompts beside it.
    """
    if not choice:
        return seed
    key = f"{seed}:{choice}".encode()
    digest = hashlib.blake2b(key, digest_size=8, person=b"purvey.choice").digest()
    return int.from_bytes(digest, "little") % 2**63


@asynccontextmanager
async def running(call: Call, asked: Asked) -> AsyncIterator[Running]:
    """Start generations; leaving early cancels all of them. Metered either way.

    Raises:
        ModelNotFoundError: No such model, or another project's.
        MethodUnsupportedError: The model does not generate text, or takes no conversations.
        PurveyError: Whatever the engine refused one of them for.
    """
    async with (
        call.services.engines.use(call.project_id, asked.model) as (record, engine),
        metered(call, kind=asked.kind, model=record.name) as tally,
    ):
        check_generates(engine, record, needs_template=asked.needs_template)
        source = _Source(call=call, name=asked.model, record=record, engine=engine)
        numbered = enumerate(_requests(call, asked))
        streams = [_events(source, request, number) for number, request in numbered]
        events = streams[0] if len(streams) == 1 else _merged(streams)
        clock = call.services.clock.monotonic
        followed = _followed(events, tally, clock, num_choices=asked.num_choices)
        async with aclosing(followed):
            yield Running(record=record, events=followed, tally=tally)


def _requests(call: Call, asked: Asked) -> list[Generate]:
    """List what the engine is asked, by number; the first has the request's own id."""
    ask = partial(Generate, salt=call.project_id)
    found: list[Generate] = []
    for prompt in asked.prompts:
        for choice in range(asked.num_choices):
            seed = choice_seed(asked.sampling.seed, choice)
            sampling = msgspec.structs.replace(asked.sampling, seed=seed)
            request_id = f"{call.request_id}.{len(found)}" if found else call.request_id
            found.append(ask(request_id=request_id, prompt=prompt, sampling=sampling))
    return found


def check_generates(engine: EngineClient, record: ModelRecord, *, needs_template: bool) -> None:
    """Make sure that a model can do what is asked.

    Raises:
        MethodUnsupportedError: It does not generate text, or takes no conversations.
    """
    if engine.model.task not in GENERATING:
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
    """Run generations to their end.

    Raises:
        PurveyError: As `running` does.
    """
    choices = [Choice() for _ in range(len(asked.prompts) * asked.num_choices)]
    parts: list[list[str]] = [[] for _ in choices]
    thoughts: list[list[str]] = [[] for _ in choices]
    async with running(call, asked) as run:
        async for number, event in run.events:
            if isinstance(event, Delta):
                parts[number].append(event.text)
                thoughts[number].append(event.reasoning)
                choices[number].calls.extend(event.calls)
                choices[number].tokens.extend(event.tokens)
            elif isinstance(event, Finished):
                choices[number].reason = finish_reason(event)
        output = Output(
            fingerprint=fingerprint(run.record),
            choices=choices,
            prompt_tokens=run.tally.input_tokens,
            cached_tokens=run.tally.cached_tokens,
            completion_tokens=run.tally.output_tokens,
            reasoning_tokens=run.tally.reasoning_tokens,
        )
    for choice, texts, thought in zip(choices, parts, thoughts, strict=True):
        choice.text, choice.reasoning = "".join(texts), "".join(thought)
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


async def _events(source: _Source, request: Generate, number: int) -> AsyncGenerator[Numbered]:
    """Generate, under the number of the choice that it is for."""
    async with AsyncExitStack() as held:
        first, following = await _started(source, request, held)
        yield number, first
        async for event in following:
            yield number, event


async def _started(source: _Source, request: Generate, held: AsyncExitStack) -> _Begun:
    """Begin to generate: at most the server's default where the request names no length.

    Where the context leaves less than the default, the engine takes what is left.
    """
    if request.sampling.max_tokens is not None:
        return await _begun(source, request, held)
    most = source.call.services.defaults.default_max_tokens
    sampling = msgspec.structs.replace(request.sampling, max_tokens=most)
    bounded = msgspec.structs.replace(request, sampling=sampling)
    try:
        return await _begun(source, bounded, held)
    except ContextLengthError:
        return await _begun(source, request, held)


async def _begun(source: _Source, request: Generate, held: AsyncExitStack) -> _Begun:
    """Begin; a request whose turn had not come when the engine died is given to the next engine.

    Only once, and only by the same model: what was told of an answer is never told anew.
    """
    try:
        return await _first(source.engine, request, held)
    except WorkerCrashedError:
        logger.info("generation.given_on", extra={"model": source.record.name})
    engines, project_id = source.call.services.engines, source.call.project_id
    now, following = await held.enter_async_context(engines.use(project_id, source.name))
    if now.digest != source.record.digest:
        raise WorkerCrashedError("the engine process died, and the model is another one now.")
    return await _first(following, request, held)


async def _first(engine: EngineClient, request: Generate, held: AsyncExitStack) -> _Begun:
    events = engine.generate(request)
    assert isinstance(events, AsyncGenerator), "engines stream from async generators"  # noqa: S101
    await held.enter_async_context(aclosing(events))
    return await anext(events), events


async def _merged(streams: list[AsyncGenerator[Numbered]]) -> AsyncGenerator[Numbered]:
    """Interleave generations as their events come; the first that fails ends all of them."""
    news: asyncio.Queue[Numbered | asyncio.Task[None]] = asyncio.Queue()  # bounded by the contexts

    async def pump(events: AsyncGenerator[Numbered]) -> None:
        async with aclosing(events):
            async for numbered in events:
                news.put_nowait(numbered)
                await asyncio.sleep(0)  # each in turn

    pumps = [asyncio.create_task(pump(events)) for events in streams]
    for task in pumps:
        task.add_done_callback(news.put_nowait)
    try:
        num_open = len(pumps)
        while num_open:
            told = await news.get()
            if isinstance(told, asyncio.Task):
                told.result()  # raises what ended it
                num_open -= 1
            else:
                yield told
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _followed(
    events: AsyncGenerator[Numbered],
    tally: Tally,
    monotonic: Callable[[], float],
    *,
    num_choices: int,
) -> AsyncGenerator[Numbered]:
    """Pass events on and keep the tally true at every moment: each prompt is counted once."""
    started_at, has_output = monotonic(), False
    prompts: set[int] = set()
    num_output: dict[int, int] = {}
    async with aclosing(events):
        async for number, event in events:
            if isinstance(event, Delta):
                tally.output_tokens += event.num_tokens
                num_output[number] = num_output.get(number, 0) + event.num_tokens
                if not has_output:
                    has_output = True
                    metrics.TTFT_SECONDS.observe(monotonic() - started_at)
            elif isinstance(event, Started):
                if number // num_choices not in prompts:
                    prompts.add(number // num_choices)
                    tally.input_tokens += event.prompt_tokens
                    tally.cached_tokens += event.cached_tokens
                    metrics.PREFIX_QUERIED_TOKENS.inc(event.prompt_tokens)
                    metrics.PREFIX_HIT_TOKENS.inc(event.cached_tokens)
            else:  # the end token was told of by no delta
                tally.output_tokens += event.completion_tokens - num_output.get(number, 0)
                tally.reasoning_tokens += event.reasoning_tokens
            yield number, event
