"""What every `EngineClient` promises, asked of each implementation.

Subjects: the scripted engine, the client over a scripted process, and the client over a real
engine process that holds a tiny random Llama.
"""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from purvey.contracts.adapter import DropAdapter, LoadAdapter
from purvey.contracts.embedding import Embed, NamedText, Rank
from purvey.contracts.engine import (
    Classify,
    Delta,
    EngineClient,
    EngineLauncher,
    Finished,
    Generate,
    GenerationEvent,
    LoadModel,
    Score,
    Started,
    TextInput,
    TextPrompt,
    Tokenize,
    TokenPrompt,
)
from purvey.contracts.ids import new_id
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import (
    ChoiceGrammar,
    Grammar,
    JsonGrammar,
    RegexGrammar,
    Sampling,
)
from purvey.engine.client import IpcEngine, LocalEngineLauncher
from purvey.errors import (
    AdapterNotLoadedError,
    CapacityError,
    ContextLengthError,
    InvalidCheckpointError,
    MethodUnsupportedError,
    ShuttingDownError,
    UserError,
    WorkerCrashedError,
)
from purvey.testing.engine_process import COMMAND
from purvey.testing.scripted_engine import ScriptedEngine, ScriptedLauncher

CONTEXT_TOKENS = 128
PROMPTS = ("once upon a time there was", "a much shorter one", "zebra", "what is it good for")

pytestmark = pytest.mark.asyncio(loop_scope="module")


AsyncLaunch = asyncio.Future[EngineClient]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An engine under test; `launch` makes another one like it."""

    engine: EngineClient
    launch: Callable[..., AsyncLaunch]


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama that writes lower-case letters only, saved by `transformers`."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny_llama")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    torch.manual_seed(7)
    model = LlamaForCausalLM(config)
    letters = [vocabulary[c] for c in "abcdefghijklmnopqrstuvwxyz"]
    with torch.no_grad():
        is_letter = torch.zeros(256, 1)
        is_letter[letters] = 40.0  # far from zero, so that one of 26 letters always wins
        model.lm_head.weight.mul_(is_letter)
    model.save_pretrained(folder)
    return folder


def _load(folder: Path) -> LoadModel:
    source = ModelSource(name="tiny", folder=str(folder), digest="0" * 64)
    return LoadModel(source=source, num_threads=1, kv_cache_bytes=4 * 2**20, max_batch_tokens=64)


def _launcher(
    request: pytest.FixtureRequest, *, cwd: Path, folder: Path
) -> tuple[EngineLauncher, Path]:
    if request.param == "scripted":
        return ScriptedLauncher(context_tokens=CONTEXT_TOKENS), folder
    if request.param == "ipc":
        command = (*COMMAND, "--context", str(CONTEXT_TOKENS))
        return LocalEngineLauncher(cwd=cwd, command=command), folder
    return LocalEngineLauncher(cwd=cwd), request.getfixturevalue("tiny_llama")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["scripted", "ipc", "real"])
async def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Subject]:
    """Each implementation in turn; the same engine for all tests of the module."""
    folder = tmp_path_factory.mktemp("model")
    cwd = tmp_path_factory.mktemp("cwd")

    launcher, model = _launcher(request, cwd=cwd, folder=folder)

    def launch(**changes: Any) -> AsyncLaunch:  # fields of LoadModel
        load = msgspec.structs.replace(_load(model), **changes)
        return asyncio.ensure_future(launcher.launch(load))

    engine = await launch()
    yield Subject(engine=engine, launch=launch)
    await engine.close(timeout_s=10)


def _generate(prompt: str, **sampling: Any) -> Generate:  # fields of Sampling
    wanted: dict[str, Any] = {"temperature": 0.0, "max_tokens": 12, **sampling}
    return Generate(
        request_id=new_id("req_"), prompt=TextPrompt(text=prompt), sampling=Sampling(**wanted)
    )


async def _events(engine: EngineClient, request: Generate) -> list[GenerationEvent]:
    return [event async for event in engine.generate(request)]


def _text(events: list[GenerationEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def _kill(engine: EngineClient) -> None:
    if isinstance(engine, ScriptedEngine):
        engine.crash()
    else:
        assert isinstance(engine, IpcEngine)
        os.kill(engine.pid, signal.SIGKILL)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (the other side is a process)
            await asyncio.sleep(0.01)


async def test_a_generation_starts_flows_and_finishes(subject: Subject) -> None:
    events = await _events(subject.engine, _generate(PROMPTS[0], max_tokens=9))
    first, last = events[0], events[-1]
    assert isinstance(first, Started)
    assert isinstance(last, Finished)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert len(deltas) == len(events) - 2
    assert last.reason == "length"
    assert last.completion_tokens == sum(delta.num_tokens for delta in deltas) == 9
    assert first.prompt_tokens == last.prompt_tokens > 0
    assert len(_text(events)) > 0


async def test_a_prompt_that_was_read_is_known_to_its_own_salt_only(subject: Subject) -> None:
    prompt = TokenPrompt(tokens=tuple(range(97, 97 + 20)) * 4)
    texts: list[str] = []
    for salt, known in (("p1", 0), ("p1", 64), ("p2", 0), ("p1", 64)):
        request = Generate(
            request_id=new_id("req_"),
            prompt=prompt,
            sampling=Sampling(temperature=0.0, max_tokens=9),
            salt=salt,
        )
        events = await _events(subject.engine, request)
        first, last = events[0], events[-1]
        assert isinstance(first, Started)
        assert isinstance(last, Finished)
        assert first.cached_tokens == last.cached_tokens == known
        texts.append(_text(events))
    assert len(set(texts)) == 1


async def test_equal_seeds_give_equal_text(subject: Subject) -> None:
    texts = [
        _text(await _events(subject.engine, _generate("abc", temperature=1.0, seed=11)))
        for _ in range(2)
    ]
    assert texts[0] == texts[1]


async def test_neighbours_do_not_change_an_answer(subject: Subject) -> None:
    alone = [_text(await _events(subject.engine, _generate(p))) for p in PROMPTS]
    together = await asyncio.gather(*(_events(subject.engine, _generate(p)) for p in PROMPTS * 4))
    assert [_text(events) for events in together] == alone * 4


async def test_closing_early_cancels_and_frees(subject: Subject) -> None:
    long = _generate(PROMPTS[0], max_tokens=None)
    stream = subject.engine.generate(long)
    assert isinstance(await anext(stream), Started)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]  # every implementation is a generator
    await _until(lambda: (s := subject.engine.stats) is None or s.running == 0)
    assert _text(await _events(subject.engine, _generate("still there")))


async def test_a_stop_string_ends_the_text_and_is_not_part_of_it(subject: Subject) -> None:
    whole = _text(await _events(subject.engine, _generate(PROMPTS[0])))
    stop = whole[4:6]
    events = await _events(subject.engine, _generate(PROMPTS[0], stop=(stop,)))
    assert _text(events) == whole[: whole.index(stop)]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "stop"


async def test_log_probabilities_come_with_each_token(subject: Subject) -> None:
    events = await _events(subject.engine, _generate("abc", num_logprobs=3, max_tokens=3))
    tokens = [t for event in events if isinstance(event, Delta) for t in event.tokens]
    assert len(tokens) == 3
    for token in tokens:
        assert token.logprob <= 0
        assert token.data.decode() == token.text
        chances = [alternative.logprob for alternative in token.alternatives]
        assert len(chances) == 3
        assert chances == sorted(chances, reverse=True)
        assert token.alternatives[0].token_id == token.token_id  # greedy takes the likeliest


async def test_tokens_are_counted_as_they_are_told(subject: Subject) -> None:
    prompt = TextPrompt(text=PROMPTS[1])
    told = await subject.engine.tokenize(Tokenize(request_id=new_id("req_"), prompt=prompt))
    assert len(told.tokens) == len(told.texts)
    assert "".join(told.texts) == prompt.text
    ids = TokenPrompt(tokens=told.tokens)
    as_ids = Generate(
        request_id=new_id("req_"), prompt=ids, sampling=Sampling(temperature=0, max_tokens=5)
    )
    events = await _events(subject.engine, as_ids)
    assert isinstance(events[0], Started)
    assert events[0].prompt_tokens == len(told.tokens)
    assert _text(events) == _text(
        await _events(subject.engine, _generate(prompt.text, max_tokens=5))
    )


async def test_scores_are_log_probabilities_per_output_token(subject: Subject) -> None:
    pairs = tuple(
        (TextPrompt(text="abc"), TokenPrompt(tokens=tokens)) for tokens in ((97, 98), (99,))
    )
    scored = await subject.engine.score(Score(request_id=new_id("req_"), pairs=pairs))
    assert [len(row) for row in scored.logprobs] == [2, 1]
    assert all(value <= 0 for row in scored.logprobs for value in row)


async def test_what_does_not_fit_is_refused_and_the_engine_goes_on(subject: Subject) -> None:
    for request in (
        _generate("x" * (CONTEXT_TOKENS + 1), max_tokens=None),
        _generate("x" * (CONTEXT_TOKENS - 2), max_tokens=50),
    ):
        with pytest.raises(ContextLengthError):
            await _events(subject.engine, request)
    assert _text(await _events(subject.engine, _generate("fits")))


@pytest.mark.row("INP-11")
async def test_a_token_id_beyond_the_vocabulary_is_refused_by_name(subject: Subject) -> None:
    request = Generate(
        request_id=new_id("req_"),
        prompt=TokenPrompt(tokens=(97, 2**31 - 1)),
        sampling=Sampling(temperature=0, max_tokens=1),
    )
    with pytest.raises(UserError) as raised:
        await _events(subject.engine, request)
    assert (raised.value.code, raised.value.param) == ("invalid_value", "prompt")
    assert _text(await _events(subject.engine, _generate("goes on")))


async def test_a_banned_token_never_comes_and_an_unknown_one_is_refused(subject: Subject) -> None:
    first = _text(await _events(subject.engine, _generate("abc")))[0]
    told = await subject.engine.tokenize(
        Tokenize(request_id=new_id("req_"), prompt=TextPrompt(text=first))
    )
    banned = _generate("abc", logit_bias=((told.tokens[0], -100.0),))
    assert first not in _text(await _events(subject.engine, banned))
    with pytest.raises(UserError) as raised:
        await _events(subject.engine, _generate("abc", logit_bias=((2**31 - 1, 1.0),)))
    assert (raised.value.code, raised.value.param) == ("invalid_value", "logit_bias.2147483647")


@pytest.mark.parametrize(
    ("grammar", "matches"),
    [
        (ChoiceGrammar(choices=("no", "perhaps")), "no|perhaps"),
        (RegexGrammar(pattern="[a-c]{3}"), "[a-c]{3}"),
        (JsonGrammar(schema='{"const":[1,null]}'), r"\[\s*1,\s*null\s*\]"),
    ],
)
async def test_a_grammar_decides_the_whole_text(
    subject: Subject, grammar: Grammar, matches: str
) -> None:
    events = await _events(subject.engine, _generate("abc", grammar=grammar))
    assert re.fullmatch(matches, _text(events))
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "stop"


async def test_a_language_model_has_no_classes(subject: Subject) -> None:
    question = Classify(request_id=new_id("req_"), inputs=({"input": TextInput(text="x")},))
    with pytest.raises(MethodUnsupportedError):
        await subject.engine.classify(question)


async def test_a_language_model_gives_no_vectors(subject: Subject) -> None:
    with pytest.raises(MethodUnsupportedError):
        await subject.engine.embed(
            Embed(request_id=new_id("req_"), inputs=("x",), params=("input",))
        )
    named = (NamedText(text="x", param="query"),)
    with pytest.raises(MethodUnsupportedError):
        await subject.engine.rank(Rank(request_id=new_id("req_"), first=named, second=named))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny Llama in PEFT's layout: rank 3 on two kinds of layers."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("adapter")
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "up_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(5)
    shapes = {"self_attn.q_proj": (32, 32), "mlp.up_proj": (48, 32)}
    tensors = {}
    for layer in (0, 1):
        for name, (num_outputs, num_inputs) in shapes.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            a, b = (3, num_inputs), (num_outputs, 3)
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(a, generator=generator)
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(b, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def _load_adapter(folder: Path, digest: str = "d" * 64) -> LoadAdapter:
    return LoadAdapter(request_id=new_id("req_"), adapter=digest, folder=str(folder))


def _drop_adapter(digest: str = "d" * 64) -> DropAdapter:
    return DropAdapter(request_id=new_id("req_"), adapter=digest)


def _adapted(prompt: str, digest: str = "d" * 64, **sampling: Any) -> Generate:
    return msgspec.structs.replace(_generate(prompt, **sampling), adapter=digest)


async def test_an_adapter_is_loaded_named_and_dropped(subject: Subject, adapter: Path) -> None:
    engine = subject.engine
    with pytest.raises(AdapterNotLoadedError):
        await _events(engine, _adapted(PROMPTS[0]))
    loaded, again = [await engine.load_adapter(_load_adapter(adapter)) for _ in range(2)]
    assert (loaded.rank, loaded.has_chat_template) == (3, False)
    assert loaded.num_bytes == again.num_bytes > 0
    await _until(lambda: (s := engine.stats) is not None and s.adapters == ("d" * 64,))
    assert _text(await _events(engine, _adapted(PROMPTS[0])))
    pairs = ((TextPrompt(text="abc"), TokenPrompt(tokens=(97,))),)
    await engine.score(Score(request_id=new_id("req_"), pairs=pairs, adapter="d" * 64))
    prompt = TextPrompt(text="abc")
    told = await engine.tokenize(
        Tokenize(request_id=new_id("req_"), prompt=prompt, adapter="d" * 64)
    )
    assert "".join(told.texts) == "abc"
    for _ in range(2):  # the second time there is nothing to drop
        assert (await engine.drop_adapter(_drop_adapter())).adapter == "d" * 64
    late = Score(request_id=new_id("req_"), pairs=pairs, adapter="d" * 64)
    with pytest.raises(AdapterNotLoadedError):
        await engine.score(late)
    with pytest.raises(AdapterNotLoadedError):
        await engine.tokenize(Tokenize(request_id=new_id("req_"), prompt=prompt, adapter="d" * 64))
    await _until(lambda: (s := engine.stats) is not None and not s.adapters)


async def test_a_dropped_adapter_stays_for_those_who_run(subject: Subject, adapter: Path) -> None:
    engine = subject.engine
    await engine.load_adapter(_load_adapter(adapter))
    whole = _text(await _events(engine, _adapted(PROMPTS[0], max_tokens=40)))
    stream = engine.generate(_adapted(PROMPTS[0], max_tokens=40))
    events = [await anext(stream)]
    dropping = asyncio.ensure_future(engine.drop_adapter(_drop_adapter()))
    async for event in stream:
        assert not dropping.done() or isinstance(event, Finished)
        events.append(event)
    assert _text(events) == whole
    async with asyncio.timeout(20):
        await dropping
    with pytest.raises(AdapterNotLoadedError):
        await _events(engine, _adapted(PROMPTS[0]))


async def test_what_one_adapter_read_is_unknown_to_another(subject: Subject, adapter: Path) -> None:
    engine = subject.engine
    for digest in ("d" * 64, "e" * 64):
        await engine.load_adapter(_load_adapter(adapter, digest))
    prompt = "once more, and long enough to be known again the next time"
    known = []
    for digest in ("d" * 64, "e" * 64, "", "d" * 64):
        request = msgspec.structs.replace(_adapted(prompt, digest, max_tokens=2), salt="p9")
        started = (await _events(engine, request))[0]
        assert isinstance(started, Started)
        known.append(started.cached_tokens)
    assert known == [0, 0, 0, 32]
    for digest in ("d" * 64, "e" * 64):
        await engine.drop_adapter(_drop_adapter(digest))


async def test_what_is_no_adapter_or_too_large_is_refused(
    subject: Subject, adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidCheckpointError):
        await subject.engine.load_adapter(_load_adapter(tmp_path))
    engine = await subject.launch(adapter_bytes=1)
    with pytest.raises(CapacityError):
        await engine.load_adapter(_load_adapter(adapter))
    assert _text(await _events(engine, _generate("goes on")))
    await engine.close(timeout_s=10)


async def test_death_ends_what_runs_and_what_comes(subject: Subject) -> None:
    engine = await subject.launch()
    stream = engine.generate(_generate(PROMPTS[0], max_tokens=None))
    await anext(stream)
    await _kill(engine)
    with pytest.raises(WorkerCrashedError):
        [event async for event in stream]
    await _until(lambda: not engine.is_alive)
    with pytest.raises(WorkerCrashedError):
        await _events(engine, _generate("more"))
    await engine.close(timeout_s=5)


async def test_closing_lets_what_runs_finish(subject: Subject) -> None:
    engine = await subject.launch()
    stream = engine.generate(_generate(PROMPTS[0], max_tokens=20))
    events = [await anext(stream)]

    async def read_on() -> None:
        events.extend([event async for event in stream])

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(read_on())
        group.create_task(engine.close(timeout_s=20))
    assert isinstance(events[-1], Finished)
    assert not engine.is_alive
    with pytest.raises((ShuttingDownError, WorkerCrashedError)):
        await _events(engine, _generate("more"))
