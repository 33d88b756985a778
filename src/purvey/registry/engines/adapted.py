"""An engine with one of its adapters: whatever is asked is computed with that."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import msgspec

from purvey.contracts.adapter import AdapterDropped, AdapterLoaded, DropAdapter, LoadAdapter
from purvey.contracts.embedding import Embed, Embedded, Rank, Ranked
from purvey.contracts.engine import (
    Classified,
    Classify,
    EngineClient,
    EngineStats,
    Explain,
    Explained,
    Generate,
    GenerationEvent,
    ModelLoaded,
    Score,
    Scored,
    Tokenize,
    Tokenized,
)
from purvey.contracts.speech.transcription import Transcribe, TranscriptEvent
from purvey.errors import AdapterNotLoadedError

A = TypeVar("A")
Q = TypeVar("Q", Generate, Score, Tokenize, Explain)


class AdaptedEngine:
    """An `EngineClient` that names one adapter with every request.

    Where the engine has lost the adapter, it is loaded again and the request asked once more;
    nothing was told of its answer by then.

    Args:
        engine: The engine of the base.
        adapter: What it said when the adapter was loaded.
        load_again: Loads it anew.
    """

    def __init__(
        self,
        engine: EngineClient,
        adapter: AdapterLoaded,
        load_again: Callable[[], Awaitable[object]],
    ) -> None:
        self._engine, self._load_again = engine, load_again
        self._adapter = adapter.adapter
        has_template = adapter.has_chat_template or engine.model.has_chat_template
        self._model = msgspec.structs.replace(engine.model, has_chat_template=has_template)

    @property
    def model(self) -> ModelLoaded:
        """The base, with the adapter's chat template where it has one."""
        return self._model

    @property
    def stats(self) -> EngineStats | None:
        """The newest statistics of the engine."""
        return self._engine.stats

    @property
    def is_alive(self) -> bool:
        """Whether the engine still answers."""
        return self._engine.is_alive

    async def generate(self, request: Generate) -> AsyncIterator[GenerationEvent]:
        """Stream one generation; closing the iterator early cancels the request."""
        named = self._named(request)
        try:
            async with aclosing(_closable(self._engine.generate(named))) as events:
                async for event in events:
                    yield event
        except AdapterNotLoadedError:  # at the door: before its first event
            await self._load_again()
        else:
            return
        async with aclosing(_closable(self._engine.generate(named))) as events:
            async for event in events:
                yield event

    async def score(self, request: Score) -> Scored:
        """Return log-probabilities of given outputs."""
        return await self._asked(self._engine.score, request)

    async def classify(self, request: Classify) -> Classified:
        """Refuse, as every language model does."""
        return await self._engine.classify(request)

    def transcribe(self, request: Transcribe) -> AsyncIterator[TranscriptEvent]:
        """Refuse, as every language model does."""
        return self._engine.transcribe(request)

    async def embed(self, request: Embed) -> Embedded:
        """Refuse, as every language model does."""
        return await self._engine.embed(request)

    async def rank(self, request: Rank) -> Ranked:
        """Refuse, as every language model does."""
        return await self._engine.rank(request)

    async def tokenize(self, request: Tokenize) -> Tokenized:
        """Return token ids."""
        return await self._asked(self._engine.tokenize, request)

    async def explain(self, request: Explain) -> Explained:
        """Return an attribution with its faithfulness."""
        return await self._asked(self._engine.explain, request)

    async def load_adapter(self, request: LoadAdapter) -> AdapterLoaded:
        """Make another adapter ready."""
        return await self._engine.load_adapter(request)

    async def drop_adapter(self, request: DropAdapter) -> AdapterDropped:
        """Forget an adapter."""
        return await self._engine.drop_adapter(request)

    async def close(self, *, timeout_s: float) -> None:
        """End the engine, with all of its adapters."""
        await self._engine.close(timeout_s=timeout_s)

    def _named(self, request: Q) -> Q:
        return msgspec.structs.replace(request, adapter=self._adapter)

    async def _asked(self, ask: Callable[[Q], Awaitable[A]], request: Q) -> A:
        named = self._named(request)
        try:
            return await ask(named)
        except AdapterNotLoadedError:
            await self._load_again()
        return await ask(named)


def _closable(events: AsyncIterator[GenerationEvent]) -> AsyncGenerator[GenerationEvent]:
    assert isinstance(events, AsyncGenerator), "engines stream from async generators"  # noqa: S101
    return events
