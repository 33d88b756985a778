"""A model that embeds texts, and perhaps images, or ranks pairs, in an engine process.

Shape letters, this file only:
    D = residual width
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from purvey.contracts.adapter import DropAdapter, LoadAdapter
from purvey.contracts.embedding import Embed, Embedded, Rank, Ranked
from purvey.contracts.engine import (
    Classify,
    Explain,
    Generate,
    ModelLoaded,
    Question,
    Score,
    Tokenize,
)
from purvey.contracts.speech.transcription import Transcribe
from purvey.engine.batcher import Batcher
from purvey.engine.embedding.door import EmbeddingDoor
from purvey.engine.embedding.pictured import PicturedDoor, PicturedVectors, Seen
from purvey.engine.embedding.vectors import Vectors
from purvey.errors import MethodUnsupportedError
from purvey.models.encoder.framing import Framed
from purvey.models.encoder.loading import EmbeddingModel
from purvey.models.encoder.pooling import unit
from purvey.models.pretrained.clip import ClipModel
from purvey.worker.batched import BatchedResident
from purvey.worker.resident import CheckCancelled, Send

Scores = Callable[[list[Tensor]], list[float]]


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What an embedder is made of.

    Args:
        door: Frames texts.
        inputs: Readies what is to be embedded.
        compute: Vectors, or scores, of what is ready.
        loaded: What was loaded.
    """

    door: EmbeddingDoor
    inputs: Callable[[Embed], Sequence[Framed | Seen]]
    compute: Callable[[Sequence[Any]], list[Tensor]]  # of what `inputs` gives
    loaded: ModelLoaded


class ResidentEmbedder(BatchedResident[Tensor]):
    """An embedding model or a cross-encoder with its batcher.

    Args:
        model: The model; a decoder is emptied into serving form.
        max_batch_tokens: Tokens of one forward pass; a longer text passes alone.
        window_s: How long the first text of a batch waits for more, in seconds.
    """

    def __init__(
        self,
        model: EmbeddingModel | ClipModel,
        *,
        max_batch_tokens: int,
        window_s: float = 0.002,
    ) -> None:
        parts = _of_images(model) if isinstance(model, ClipModel) else _of_texts(model)
        self._is_ranker = model.manifest.task == "rerank"
        self._batcher: Batcher[Framed | Seen, Tensor] = Batcher(
            parts.compute, window_s=window_s, max_cost=max_batch_tokens, cost=len
        )
        self._door, self._inputs = parts.door, parts.inputs
        super().__init__(self._batcher, parts.loaded)

    def answer(self, question: Question, send: Send, check: CheckCancelled) -> None:
        """Hand the question to the batcher, or refuse it."""
        match question:
            case Embed() if not self._is_ranker:
                self._embed(question, send)
            case Rank():
                self._rank(question, send)
            case Embed():
                raise MethodUnsupportedError(
                    "this model scores pairs; it gives no vectors.", param="model"
                )
            case (
                Generate()
                | Score()
                | Classify()
                | Tokenize()
                | Transcribe()
                | Explain()
                | LoadAdapter()
                | DropAdapter()
            ):
                raise MethodUnsupportedError(
                    f"this model is for {self._loaded.task}.", param="model"
                )

    def _embed(self, question: Embed, send: Send) -> None:
        inputs = self._inputs(question)

        def embedded(vectors: list[Tensor], compute_s: float) -> Embedded:
            return Embedded(
                request_id=question.request_id,
                vectors=tuple(_bytes_of(vector_D, question.dimensions) for vector_D in vectors),
                num_tokens=sum(len(one) for one in inputs if isinstance(one, Framed)),
                compute_s=compute_s,
            )

        submission = self._batcher.put(inputs)
        self._answer_when_done(question.request_id, submission, embedded, send)

    def _rank(self, question: Rank, send: Send) -> None:
        score: Scores = _scores
        inputs: Sequence[Framed]
        if self._is_ranker:
            inputs = self._door.pairs(question)
        else:
            inputs, score = self._cosines(question)

        def ranked(results: list[Tensor], compute_s: float) -> Ranked:
            return Ranked(
                request_id=question.request_id,
                scores=tuple(score(results)),
                num_tokens=sum(map(len, inputs)),
                compute_s=compute_s,
            )

        submission = self._batcher.put(inputs)
        self._answer_when_done(question.request_id, submission, ranked, send)

    def _cosines(self, question: Rank) -> tuple[list[Framed], Scores]:
        """Frame every text once, and return what makes the pairs' cosines of their vectors."""
        pairs = question.pairs()
        params = {one.text: one.param for pair in reversed(pairs) for one in reversed(pair)}
        framed = self._door.texts(
            Embed(
                request_id=question.request_id,
                inputs=tuple(params),
                params=tuple(params.values()),
                truncate_tokens=question.truncate_tokens,
            )
        )
        rows = {text: row for row, text in enumerate(params)}

        def cosines(vectors: list[Tensor]) -> list[float]:
            exact = [vector_D.double() for vector_D in vectors]
            return [float(exact[rows[a.text]] @ exact[rows[b.text]]) for a, b in pairs]

        return framed, cosines


def _of_texts(model: EmbeddingModel) -> _Parts:
    config, is_ranker = model.network.config, model.manifest.task == "rerank"
    vectors = Vectors(model)
    door = EmbeddingDoor(
        model.framer,
        vocabulary_size=config.vocabulary_size,
        max_tokens=model.max_tokens,
        vector_size=config.hidden_size,
        sizes=model.setup.sizes,
    )
    loaded = ModelLoaded(
        task=model.manifest.task,
        context_tokens=model.max_tokens,
        vector_size=0 if is_ranker else config.hidden_size,
        num_parameters=vectors.num_parameters,
        resident_bytes=vectors.num_bytes,
    )
    compute = vectors.scores if is_ranker else vectors.vectors
    return _Parts(door=door, inputs=door.texts, compute=compute, loaded=loaded)


def _of_images(model: ClipModel) -> _Parts:
    door, vectors = PicturedDoor(model), PicturedVectors(model)
    loaded = ModelLoaded(
        task=model.manifest.task,
        inputs=model.manifest.inputs,
        context_tokens=model.max_tokens,
        vector_size=model.module.vector_size,
        num_parameters=vectors.num_parameters,
        resident_bytes=vectors.num_bytes,
        similarity_scale=vectors.scale,
        path="transformers",
    )
    return _Parts(door=door, inputs=door.inputs, compute=vectors.vectors, loaded=loaded)


def _scores(results: list[Tensor]) -> list[float]:
    return [float(score) for score in results]


def _bytes_of(vector_D: Tensor, dimensions: int | None) -> bytes:
    """Write a vector as little-endian float32; one that is cut gets length 1 again."""
    is_cut = dimensions is not None and dimensions < len(vector_D)
    whole = unit(vector_D[:dimensions]) if is_cut else vector_D
    return whole.numpy().astype("<f4").tobytes()
