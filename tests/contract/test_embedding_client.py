"""What every `EngineClient` promises of vectors and of scores of pairs.

Subjects: the scripted engine, the client over a scripted process, and the client over a real
engine process that holds a tiny random BERT.
"""

import asyncio
import math
import struct
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from purvey.contracts.embedding import Embed, Embedded, NamedText, Rank
from purvey.contracts.engine import (
    Classify,
    EngineClient,
    EngineLauncher,
    Explain,
    Generate,
    LoadModel,
    NamedInputs,
    Score,
    TextInput,
    TextPrompt,
    Tokenize,
)
from purvey.contracts.explain import ExplanationRequest
from purvey.contracts.ids import new_id
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import Sampling
from purvey.engine.client import LocalEngineLauncher
from purvey.errors import ContextLengthError, MethodUnsupportedError, UserError
from purvey.testing.engine_process import COMMAND
from purvey.testing.model_folder import BERT, CROSS_ENCODER, write_plausible_folder
from purvey.testing.scripted_engine import ScriptedLauncher

CONTEXT_TOKENS = 64
TEXTS = ("the quick brown fox", "a", "jumps over", "the lazy dog 42")

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """A model for embedding, and a cross-encoder, behind one implementation."""

    embedder: EngineClient
    ranker: EngineClient


def _folders(kind: str, root: Path) -> tuple[Path, Path]:
    embedder, ranker = root / "embedder", root / "ranker"
    if kind == "real":
        pytest.importorskip("torch")
        from tests.numerics.encoders import write_encoder

        write_encoder(embedder, "bert")
        write_encoder(ranker, "bert", is_ranker=True)
        return embedder, ranker
    return write_plausible_folder(embedder, BERT), write_plausible_folder(ranker, CROSS_ENCODER)


def _launcher(kind: str, cwd: Path) -> EngineLauncher:
    if kind == "scripted":
        return ScriptedLauncher(context_tokens=CONTEXT_TOKENS)
    command = (*COMMAND, "--context", str(CONTEXT_TOKENS)) if kind == "ipc" else None
    return LocalEngineLauncher(cwd=cwd, command=command)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["scripted", "ipc", "real"])
async def subjects(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Subjects]:
    root = tmp_path_factory.mktemp("models")
    launcher, folders = _launcher(request.param, root), _folders(request.param, root)
    engines = [await launcher.launch(_load(folder)) for folder in folders]
    yield Subjects(embedder=engines[0], ranker=engines[1])
    for engine in engines:
        await engine.close(timeout_s=10)


def _load(folder: Path) -> LoadModel:
    source = ModelSource(name="tiny", folder=str(folder), digest="0" * 64)
    return LoadModel(source=source, num_threads=1, kv_cache_bytes=2**20, max_batch_tokens=64)


def _embed(*inputs: str | tuple[int, ...], **more: Any) -> Embed:  # its other fields
    params = tuple(f"input.{i}" for i in range(len(inputs)))
    return Embed(request_id=new_id("req_"), inputs=inputs, params=params, **more)


def _rank(first: str, *second: str, **more: Any) -> Rank:
    return Rank(
        request_id=new_id("req_"),
        first=(NamedText(text=first, param="query"),),
        second=tuple(NamedText(text=s, param=f"documents.{i}") for i, s in enumerate(second)),
        **more,
    )


def _numbers(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def _lengths(answer: Embedded) -> list[float]:
    return [math.sqrt(sum(x * x for x in _numbers(vector))) for vector in answer.vectors]


async def test_an_engine_says_what_it_is_for(subjects: Subjects) -> None:
    model = subjects.embedder.model
    assert (model.task, model.context_tokens) == ("embedding", CONTEXT_TOKENS)
    assert model.vector_size > 0
    assert (subjects.ranker.model.task, subjects.ranker.model.vector_size) == ("rerank", 0)


async def test_every_text_gets_a_vector_of_length_1(subjects: Subjects) -> None:
    answer = await subjects.embedder.embed(_embed(*TEXTS))
    size = subjects.embedder.model.vector_size
    assert [len(vector) for vector in answer.vectors] == [4 * size] * len(TEXTS)
    assert _lengths(answer) == pytest.approx([1.0] * len(TEXTS), abs=1e-6)
    assert len(set(answer.vectors)) == len(TEXTS)
    assert answer.num_tokens >= len(TEXTS)
    assert answer.compute_s > 0


async def test_neighbours_do_not_change_a_bit(subjects: Subjects) -> None:
    alone = [(await subjects.embedder.embed(_embed(text))).vectors[0] for text in TEXTS]
    asked = (subjects.embedder.embed(_embed(*TEXTS[i:], *TEXTS[:i])) for i in range(4))
    for shift, answer in enumerate(await asyncio.gather(*asked)):
        assert list(answer.vectors) == [*alone[shift:], *alone[:shift]]


async def test_what_is_too_long_is_refused_by_name_or_cut(subjects: Subjects) -> None:
    long = "x " * CONTEXT_TOKENS
    with pytest.raises(ContextLengthError) as raised:
        await subjects.embedder.embed(_embed("short", long))
    assert raised.value.param == "input.1"
    cut = await subjects.embedder.embed(_embed(long, truncate_tokens=10))
    assert cut.num_tokens == 10
    with pytest.raises(ContextLengthError) as paired:
        await subjects.ranker.rank(_rank("a", "b", long))
    assert paired.value.param == "documents.1"
    assert (await subjects.ranker.rank(_rank("a", long, truncate_tokens=10))).num_tokens == 10
    with pytest.raises(UserError) as beyond:
        await subjects.embedder.embed(_embed("a", truncate_tokens=CONTEXT_TOKENS + 1))
    assert beyond.value.param == "truncate_prompt_tokens"
    assert (await subjects.embedder.embed(_embed("goes on"))).vectors


async def test_token_ids_are_taken_as_they_are(subjects: Subjects) -> None:
    answer = await subjects.embedder.embed(_embed((33, 34), (35,)))
    assert answer.num_tokens == 3
    with pytest.raises(UserError) as raised:
        await subjects.embedder.embed(_embed((33, 2**31 - 1)))
    assert raised.value.param == "input.0"


async def test_a_vector_has_no_more_numbers_than_it_has(subjects: Subjects) -> None:
    size = subjects.embedder.model.vector_size
    whole = await subjects.embedder.embed(_embed("a", dimensions=size))
    assert whole.vectors == (await subjects.embedder.embed(_embed("a"))).vectors
    with pytest.raises(UserError) as raised:
        await subjects.embedder.embed(_embed("a", dimensions=size + 1))
    assert raised.value.param == "dimensions"


async def test_pairs_get_scores_in_order(subjects: Subjects) -> None:
    for engine in (subjects.embedder, subjects.ranker):
        together = await engine.rank(_rank("the fox", *TEXTS))
        assert len(together.scores) == len(TEXTS)
        alone = [(await engine.rank(_rank("the fox", text))).scores[0] for text in TEXTS]
        assert list(together.scores) == alone
    assert all(0 <= score <= 1 for score in together.scores)


async def test_models_do_what_they_are_for_and_nothing_else(subjects: Subjects) -> None:
    with pytest.raises(MethodUnsupportedError):
        await subjects.ranker.embed(_embed("a"))
    for engine in (subjects.embedder, subjects.ranker):
        for asked in _other_questions(engine):
            with pytest.raises(MethodUnsupportedError):
                await asked


def _other_questions(engine: EngineClient) -> Iterator[Awaitable[object]]:
    prompt, request_id = TextPrompt(text="a"), new_id("req_")
    yield engine.tokenize(Tokenize(request_id=request_id, prompt=prompt))
    yield engine.score(Score(request_id=request_id, pairs=((prompt, prompt),)))
    inputs: tuple[NamedInputs, ...] = ({"input": TextInput(text="x")},)
    yield engine.classify(Classify(request_id=request_id, inputs=inputs))
    explained = ExplanationRequest(text="a b")
    yield engine.explain(Explain(request_id=request_id, request=explained))
    asked = Generate(request_id=request_id, prompt=prompt, sampling=Sampling())
    yield anext(engine.generate(asked))


async def test_who_leaves_is_forgotten(subjects: Subjects) -> None:
    asked = [asyncio.ensure_future(subjects.embedder.embed(_embed(*TEXTS))) for _ in range(20)]
    await asyncio.sleep(0)
    for one in asked[::2]:
        one.cancel()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError | Embedded) for one in answers[::2])
    assert all(isinstance(one, Embedded) for one in answers[1::2])
    async with asyncio.timeout(20):
        while (stats := subjects.embedder.stats) and stats.running + stats.waiting:  # noqa: ASYNC110 (the other side is a process)
            await asyncio.sleep(0.01)
