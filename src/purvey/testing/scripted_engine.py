"""An engine without a model: it answers at once, predictably, and fails on request.

`ScriptedEngine` passes the same contract suite as the client of a real engine process.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from purvey.contracts.adapter import AdapterDropped, AdapterLoaded, DropAdapter, LoadAdapter
from purvey.contracts.embedding import Embed, Embedded, Rank, Ranked
from purvey.contracts.engine import (
    Classified,
    Classify,
    Delta,
    EngineStats,
    Explain,
    Explained,
    Finished,
    Generate,
    GenerationEvent,
    LoadModel,
    ModelLoaded,
    Question,
    Score,
    Scored,
    Started,
    Tokenize,
    Tokenized,
)
from purvey.contracts.hugging_face import MODULES_NAME, manifest_of
from purvey.contracts.model import GENERATING, MANIFEST_NAME, ModelManifest, Task
from purvey.contracts.speech.transcription import (
    Heard,
    SpeechSkills,
    Transcribe,
    TranscriptEvent,
)
from purvey.errors import (
    ContextLengthError,
    MethodUnsupportedError,
    PurveyError,
    ShuttingDownError,
    WorkerCrashedError,
)
from purvey.testing import scripted_answers as answers
from purvey.testing import scripted_speech, scripted_vectors
from purvey.testing.gate import Gate
from purvey.testing.scripted_adapters import ScriptedAdapters
from purvey.testing.scripted_calls import Told, called
from purvey.testing.scripted_grammar import obeying
from purvey.testing.scripted_prefix import SeenPrompts

CRASHED = "the engine process died"
_UNEXPLAINED = ("embedding", "rerank", "regression", "speech-recognition")


class ScriptedEngine:
    """An `EngineClient` that echoes: one character is one token.

    Text generation repeats the last turn; classification prefers the label that the text
    names. Everything a test may turn is public and may be turned from another thread.

    Args:
        model: What it claims to have loaded.
        replies: Answer by rendered prompt (`scripted_answers.rendered`); others are echoed.
        adapter_bytes: What adapters may take together; each takes 64 bytes per rank.

    Attributes:
        gate: Closed, it stops every answer before its next token.
        refusals: Errors that the next requests end in, first one first.
        crash_after_tokens: Dies when it has produced that many more tokens.
        requests: Every request that arrived, in order.
        cancelled: Ids of generations that were closed early.
    """

    def __init__(
        self,
        model: ModelLoaded,
        *,
        replies: dict[str, str] | None = None,
        adapter_bytes: int = 2**20,
    ) -> None:
        self.gate = Gate()
        self.refusals: list[PurveyError] = []
        self.crash_after_tokens: int | None = None
        self.requests: list[Question] = []
        self.cancelled: list[str] = []
        self.is_closed = False
        self._model = model
        self._replies = replies or {}
        self._running: set[str] = set()
        self._has_crashed = False
        self._is_draining = False
        self._steps = 0
        self._seen = SeenPrompts()
        self._adapters = ScriptedAdapters(adapter_bytes=adapter_bytes)

    @property
    def model(self) -> ModelLoaded:
        """What was loaded."""
        return self._model

    @property
    def stats(self) -> EngineStats:
        """What is running now."""
        return EngineStats(
            running=len(self._running),
            waiting=0,
            free_blocks=64 - min(len(self._running), 64),
            total_blocks=64,
            steps=self._steps,
            adapters=self._adapters.digests,
        )

    @property
    def is_alive(self) -> bool:
        """Whether it has neither crashed nor been closed."""
        return not self._has_crashed and not self.is_closed

    def crash(self) -> None:
        """Die: requests under way and to come raise `WorkerCrashedError`."""
        self._has_crashed = True
        self.gate.open()

    async def generate(self, request: Generate) -> AsyncIterator[GenerationEvent]:
        """Stream the scripted reply token by token."""
        with self._admitted(request), self._adapters.held(request.adapter):
            self._require_generation()
            prompt = answers.rendered(request.prompt)
            room = self._room(request, len(prompt))
            reply, is_stopped = self._reply(request, prompt)
            await self._step()
            known = self._seen.num_known(f"{request.salt} {request.adapter}", prompt)
            yield Started(
                request_id=request.request_id, prompt_tokens=len(prompt), cached_tokens=known
            )
            if request.sampling.echo:
                yield Delta(request_id=request.request_id, text=prompt, num_tokens=0)
            told, num_said = Told(request), 0
            for character in reply[:room]:
                await self._step()
                yield told.read(self._delta(request, character))
                num_said += 1
                if told.is_done:
                    break
            rest = told.read(
                Delta(request_id=request.request_id, text="", num_tokens=0), is_last=True
            )
            if rest.text or rest.reasoning or rest.calls:
                yield rest
            yield Finished(
                request_id=request.request_id,
                reason="stop" if len(reply) < room or is_stopped or told.is_done else "length",
                prompt_tokens=len(prompt),
                completion_tokens=num_said,
                cached_tokens=known,
                reasoning_tokens=told.num_reasoning,
            )

    async def score(self, request: Score) -> Scored:
        """Return log-probabilities of given outputs."""
        with self._admitted(request), self._adapters.held(request.adapter):
            self._require_generation()
            await self._step()
            pairs = [(answers.rendered(p), answers.rendered(o)) for p, o in request.pairs]
            return Scored(
                request_id=request.request_id,
                logprobs=tuple(answers.score(prompt, output) for prompt, output in pairs),
                prompt_tokens=sum(len(prompt) for prompt, _ in pairs),
            )

    async def classify(self, request: Classify) -> Classified:
        """Return class probabilities, or scores."""
        with self._admitted(request):
            is_regression = self._model.task == "regression"
            if not self._model.labels and not is_regression:
                raise MethodUnsupportedError("this model generates text; it has no labels")
            await self._step()
            if is_regression:
                scores = tuple(answers.score_of(i) for i in request.inputs)
                return Classified(request_id=request.request_id, scores=scores, compute_s=0.001)
            rows = (answers.probabilities(i, self._model.labels) for i in request.inputs)
            return Classified(
                request_id=request.request_id, probabilities=tuple(rows), compute_s=0.001
            )

    async def transcribe(self, request: Transcribe) -> AsyncIterator[TranscriptEvent]:
        """Stream the words that a recording is made of."""
        with self._admitted(request):
            self._require("speech-recognition")
            words = scripted_speech.words_of(request.data)
            has_times = self._model.speech.has_word_times
            for word in words if has_times else scripted_speech.segments_of(words):
                await self._step()
                yield Heard(request_id=request.request_id, words=(word,))
            await self._step()
            yield scripted_speech.end_of(request, words, skills=self._model.speech)

    async def embed(self, request: Embed) -> Embedded:
        """Return vectors of texts."""
        with self._admitted(request):
            self._require("embedding")
            await self._step()
            return scripted_vectors.embedded(request, context_tokens=self._model.context_tokens)

    async def rank(self, request: Rank) -> Ranked:
        """Return how well the texts of pairs fit."""
        with self._admitted(request):
            self._require("embedding", "rerank")
            await self._step()
            return scripted_vectors.ranked(request, context_tokens=self._model.context_tokens)

    async def tokenize(self, request: Tokenize) -> Tokenized:
        """Return one token per character, and count those of images."""
        with self._admitted(request), self._adapters.held(request.adapter):
            self._require_generation()
            await self._step()
            text = answers.rendered(answers.without_images(request.prompt))
            return Tokenized(
                request_id=request.request_id,
                tokens=tuple(ord(c) for c in text),
                texts=tuple(text),
                num_pictured=len(answers.rendered(request.prompt)) - len(text),
            )

    async def explain(self, request: Explain) -> Explained:
        """Return an attribution with its faithfulness."""
        with self._admitted(request), self._adapters.held(request.adapter):
            if self._model.task in _UNEXPLAINED:
                raise MethodUnsupportedError(f"this model is for {self._model.task}", param="model")
            await self._step()
            return Explained(
                request_id=request.request_id,
                result=answers.explanation(request.request, self._model.labels),
            )

    async def load_adapter(self, request: LoadAdapter) -> AdapterLoaded:
        """Make an adapter ready."""
        with self._admitted(request):
            self._require_generation()
            if self._model.path != "native":
                raise MethodUnsupportedError("this model takes no adapters", param="model")
            await self._step()
            return self._adapters.load(request)

    async def drop_adapter(self, request: DropAdapter) -> AdapterDropped:
        """Forget an adapter, once nothing computes with it."""
        with self._admitted(request):
            await self._step()
            await self._adapters.drop(request.adapter)
            return AdapterDropped(request_id=request.request_id, adapter=request.adapter)

    async def close(self, *, timeout_s: float) -> None:
        """Wait for what runs, at most `timeout_s`, then end."""
        self._is_draining = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._running:  # noqa: ASYNC110 (requests end in other loops' threads)
                    await asyncio.sleep(0.001)
        except TimeoutError:
            self.crash()
        self.is_closed = True

    @contextmanager
    def _admitted(self, request: Question) -> Iterator[None]:
        self.requests.append(request)
        if self._has_crashed:
            raise WorkerCrashedError(CRASHED)
        if self._is_draining:
            raise ShuttingDownError("the engine takes no new requests")
        if self.refusals:
            raise self.refusals.pop(0)
        self._running.add(request.request_id)
        try:
            yield
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled.append(request.request_id)
            raise
        finally:
            self._running.discard(request.request_id)

    def _require_generation(self) -> None:
        if self._model.task not in GENERATING:
            raise MethodUnsupportedError(
                f"this model is for {self._model.task}; it does not generate text", param="model"
            )

    def _require(self, *tasks: Task) -> None:
        if self._model.task not in tasks:
            raise MethodUnsupportedError(f"this model is for {self._model.task}", param="model")

    def _room(self, request: Generate, prompt_tokens: int) -> int:
        left = self._model.context_tokens - prompt_tokens
        asked = request.sampling.max_tokens
        if left <= 0 or (asked or 0) > left:
            raise ContextLengthError(
                f"the prompt has {prompt_tokens} tokens and the model's context holds "
                f"{self._model.context_tokens}"
            )
        return left if asked is None else asked

    def _reply(self, request: Generate, prompt: str) -> tuple[str, bool]:
        given = self._replies.get(prompt, answers.echo(request.prompt))
        reply = called(request, obeying(given, request.sampling))
        ends = [reply.find(stop) for stop in request.sampling.stop if stop in reply]
        return (reply[: min(ends)], True) if ends else (reply, False)

    def _delta(self, request: Generate, character: str) -> Delta:
        wanted = request.sampling.num_logprobs
        tokens = () if wanted is None else (answers.token_logprob(character, wanted),)
        return Delta(request_id=request.request_id, text=character, tokens=tokens)

    async def _step(self) -> None:
        await self.gate.passed()
        if self.crash_after_tokens is not None:
            self.crash_after_tokens -= 1
            if self.crash_after_tokens < 0:
                self._has_crashed = True
        if self._has_crashed:
            raise WorkerCrashedError(CRASHED)
        self._steps += 1


class ScriptedLauncher:
    """An `EngineLauncher` whose engines are scripted.

    What an engine claims to be follows the folder's `purvey.json`, so a model registered by
    a scripted job is served as what it says it is; a folder without one generates text.

    Args:
        replies: Given to every engine.

    Attributes:
        gate: Closed, it stops every launch before the model is ready.
        failures: Errors that the next launches end in, first one first.
        resident_bytes: What engines claim to hold, by model name, where not the usual little.
        loads: Every launch that was asked for, in order.
        engines: Launched engines by model name, oldest first.
    """

    def __init__(
        self, *, replies: dict[str, str] | None = None, context_tokens: int = 4_096
    ) -> None:
        self.gate = Gate()
        self.failures: list[PurveyError] = []
        self.resident_bytes: dict[str, int] = {}
        self.loads: list[LoadModel] = []
        self.engines: defaultdict[str, list[ScriptedEngine]] = defaultdict(list)
        self._replies = replies
        self._context_tokens = context_tokens

    async def launch(self, load: LoadModel) -> ScriptedEngine:
        """Start an engine that claims to be what the folder's manifest says."""
        self.loads.append(load)
        await self.gate.passed()
        if self.failures:
            raise self.failures.pop(0)
        name = load.source.name
        claim = self._claim(Path(load.source.folder))
        num_bytes = self.resident_bytes.get(name, claim.resident_bytes)
        claim = msgspec.structs.replace(claim, resident_bytes=num_bytes)
        engine = ScriptedEngine(claim, replies=self._replies, adapter_bytes=load.adapter_bytes)
        self.engines[name].append(engine)
        return engine

    def _claim(self, folder: Path) -> ModelLoaded:
        manifest = _manifest(folder)
        if manifest.task in GENERATING:
            claim = text_generation(context_tokens=self._context_tokens)
            claim = msgspec.structs.replace(claim, task=manifest.task, inputs=manifest.inputs)
            is_foreign = manifest.family == "transformers"
            return msgspec.structs.replace(claim, path="transformers") if is_foreign else claim
        is_embedder = manifest.task == "embedding"
        has_tokens = is_embedder or not manifest.inputs
        is_whisper = manifest.family == "whisper"
        return ModelLoaded(
            task=manifest.task,
            context_tokens=self._context_tokens if has_tokens else 0,
            vector_size=scripted_vectors.VECTOR_SIZE if is_embedder else 0,
            labels=manifest.labels,
            inputs=manifest.inputs,
            num_parameters=10,
            resident_bytes=1_024,
            is_calibrated=manifest.is_calibrated,
            similarity_scale=scripted_vectors.SCALE if is_embedder and manifest.inputs else 0.0,
            speech=scripted_speech.SKILLS if is_whisper else SpeechSkills(),
        )


def _manifest(folder: Path) -> ModelManifest:
    """Read what a folder says of itself, or what its `config.json` lets one guess."""
    path, config = folder / MANIFEST_NAME, folder / "config.json"
    if path.is_file():
        return msgspec.json.decode(path.read_bytes(), type=ModelManifest)
    values = msgspec.json.decode(config.read_bytes(), type=dict) if config.is_file() else {}
    return manifest_of(values, has_modules=(folder / MODULES_NAME).is_file())


def text_generation(*, context_tokens: int = 4_096) -> ModelLoaded:
    """Return the claim of an engine that generates text and knows conversations."""
    return ModelLoaded(
        task="text-generation",
        context_tokens=context_tokens,
        has_chat_template=True,
        num_parameters=1_000,
        resident_bytes=4_096,
    )
