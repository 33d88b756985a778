"""A language model in an engine process: generations, scores, tokens, explanations."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

from purvey.contracts.adapter import AdapterDropped, DropAdapter, LoadAdapter
from purvey.contracts.embedding import Embed, Rank
from purvey.contracts.engine import (
    Classify,
    EngineStats,
    Explain,
    Explained,
    Generate,
    LoadModel,
    ModelLoaded,
    Prompt,
    Question,
    Score,
    Scored,
    Tokenize,
    Tokenized,
)
from purvey.contracts.speech.transcription import Transcribe
from purvey.engine.adapters.served import ServedAdapters, no_adapters
from purvey.engine.core import Core
from purvey.engine.door import Door
from purvey.engine.greedy_text import GreedyWriter
from purvey.engine.output.voice import Voice
from purvey.engine.score import Pair, Scorer
from purvey.engine.seeing.sight import Sight
from purvey.errors import MethodUnsupportedError, PurveyError
from purvey.models.foreign import ForeignModel
from purvey.models.language import LanguageModel
from purvey.worker.compute import Place, compute_of
from purvey.worker.explaining import explain_language
from purvey.worker.resident import CheckCancelled, Send, refusal


class ResidentLanguage:
    """A language model with its loop.

    Args:
        model: The model; our own decoder is emptied into serving form.
        place: Where it is computed.
        load: What it may use.
        sight: Sees the images of conversations; None where the model reads text alone.

    Raises:
        SettingError: The memory or the batch is too small for this model.
    """

    def __init__(
        self,
        model: LanguageModel | ForeignModel,
        place: Place,
        load: LoadModel,
        *,
        sight: Sight | None = None,
    ) -> None:
        num_parameters = model.num_parameters  # before it is emptied
        compute = compute_of(model, place, load)
        self._adapters = None
        if compute.bank is not None and isinstance(model, LanguageModel):
            self._adapters = ServedAdapters(
                compute.bank,
                model.decoder.config,
                base_digest=load.source.digest,
                tokenizer=model.tokenizer,
            )
        self._core = Core(
            compute.runner,
            max_batch_tokens=load.max_batch_tokens,
            has_prefix_cache=load.prefix_cache and compute.can_share_blocks,
            roster=None if self._adapters is None else self._adapters.roster,
        )
        self._where = "by transformers" if compute.path == "transformers" else "on CUDA"
        self._tokenizer = model.tokenizer
        self._door = Door(
            model.tokenizer,
            model.template,
            stop_ids=model.stop_ids,
            vocabulary_size=model.vocabulary_size,
            context_tokens=model.context_tokens,
            cache_tokens=self._core.cache_tokens,
            sight=sight,
        )
        self._scorer = Scorer(self._core, self._door.encode_pair)
        self._writer = GreedyWriter(self._core, self._door)
        self._scores: dict[str, Future[list[list[float]]]] = {}
        self._lock = threading.Lock()
        weights_bytes = compute.weights_bytes + (0 if sight is None else sight.num_bytes)
        self._loaded = ModelLoaded(
            task="text-generation" if sight is None else "image-text-to-text",
            inputs={} if sight is None else dict(sight.inputs),
            context_tokens=model.context_tokens,
            has_chat_template=model.template is not None,
            num_parameters=num_parameters + (0 if sight is None else sight.num_parameters),
            resident_bytes=weights_bytes + compute.cache_bytes,
            weights_bytes=weights_bytes,
            workspace_bytes=compute.workspace_bytes,
            precision=compute.precision,
            path=compute.path,
        )

    @property
    def loaded(self) -> ModelLoaded:
        """What was loaded."""
        return self._loaded

    def answer(self, question: Question, send: Send, check: CheckCancelled) -> None:
        """Answer at once, or hand the question to the loop."""
        match question:
            case Generate():
                with self._voice(question.adapter) as voice:
                    self._core.submit(self._door.generation(question, send, voice=voice))
            case Score():
                self._score(question, send)
            case Tokenize():
                send(self._tokenized(question))
            case Explain():
                send(self._explained(question, check))
            case LoadAdapter():
                send(self._with_adapters().load(question, self._door))
            case DropAdapter():
                self._drop(question, send)
            case Classify():
                raise MethodUnsupportedError(
                    "this model generates text and has no labels.", param="model"
                )
            case Embed() | Rank():
                raise MethodUnsupportedError(
                    "this model generates text; it gives no vectors.", param="model"
                )
            case Transcribe():
                raise MethodUnsupportedError(
                    "this model generates text; it writes down no recordings.", param="model"
                )

    def cancel(self, request_id: str) -> None:
        """Forget a request within one step."""
        self._core.cancel(request_id)
        with self._lock:
            scores = self._scores.get(request_id)
        if scores is not None:
            scores.cancel()

    def run(self) -> None:
        """Compute until drained or stopped."""
        self._core.run()

    def drain(self) -> None:
        """Accept nothing more and finish what was accepted."""
        self._core.drain()

    def stop(self) -> None:
        """Accept nothing more and cancel what was accepted."""
        self._core.stop()

    def stats(self) -> EngineStats:
        """Count what is held."""
        return self._core.stats()

    def _drop(self, question: DropAdapter, send: Send) -> None:
        if self._adapters is None:  # nothing computes with it
            send(AdapterDropped(request_id=question.request_id, adapter=question.adapter))
        else:
            self._adapters.drop(question, send)

    def _score(self, question: Score, send: Send) -> None:
        request_id = question.request_id
        with self._voice(question.adapter) as voice:
            pairs, pictures = self._door.encode_seen(question.pairs, voice)
            num_tokens = sum(len(prompt) + len(output) for prompt, output in pairs)
            scores = self._scorer.submit_encoded(
                pairs,
                adapter=None if voice is None else voice.adapter,
                salt=question.salt,
                pictures=pictures,
            )
        with self._lock:
            self._scores[request_id] = scores

        def tell(done: Future[list[list[float]]]) -> None:
            with self._lock:
                self._scores.pop(request_id, None)
            if done.cancelled():
                return
            if isinstance(error := done.exception(), PurveyError):
                send(refusal(request_id, error))
            else:
                logprobs = tuple(tuple(tokens) for tokens in done.result())
                send(Scored(request_id=request_id, logprobs=logprobs, prompt_tokens=num_tokens))

        scores.add_done_callback(tell)

    def _tokenized(self, question: Tokenize) -> Tokenized:
        with self._voice(question.adapter) as voice:
            ids, num_pictured = self._door.counted(question.prompt, voice)
        data = (self._tokenizer.token_bytes(token_id) for token_id in ids)
        texts = tuple(one.decode("utf-8", errors="replace") for one in data)
        return Tokenized(
            request_id=question.request_id,
            tokens=tuple(ids),
            texts=texts,
            num_pictured=num_pictured,
        )

    def _explained(self, question: Explain, check: CheckCancelled) -> Explained:
        with self._voice(question.adapter) as voice:

            def write(prompt: Prompt, max_tokens: int) -> str:
                return self._writer.write(prompt, max_tokens, voice)

            def score(pairs: Sequence[Pair]) -> Future[list[list[float]]]:
                check()
                return self._scorer.submit(pairs, voice=voice)

            result = explain_language(question.request, generate=write, score=score)
        return Explained(request_id=question.request_id, result=result)

    @contextmanager
    def _voice(self, adapter: str) -> Iterator[Voice | None]:
        """Hold the adapter of a request; None is the base's own voice."""
        if not adapter:
            yield None
            return
        with self._with_adapters().taken(adapter) as voice:
            yield voice

    def _with_adapters(self) -> ServedAdapters:
        if self._adapters is None:
            raise no_adapters(self._where)
        return self._adapters
