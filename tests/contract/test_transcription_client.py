"""What every `EngineClient` promises of transcriptions.

Subjects: the scripted engine, the client over a scripted process, and the client over a real
engine process that holds a small random recogniser.
"""

import asyncio
import io
import random
import wave
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio

from purvey.contracts.engine import (
    Classify,
    EngineClient,
    EngineLauncher,
    Generate,
    LoadModel,
    TextInput,
    TextPrompt,
)
from purvey.contracts.ids import new_id
from purvey.contracts.model import AudioSpec, ModelSource
from purvey.contracts.sampling import Sampling
from purvey.contracts.speech.transcription import (
    Heard,
    Transcribe,
    Transcribed,
    TranscriptEvent,
    Word,
)
from purvey.engine.client import LocalEngineLauncher
from purvey.errors import (
    MethodUnsupportedError,
    ShuttingDownError,
    UserError,
    WorkerCrashedError,
)
from purvey.testing.engine_process import COMMAND
from purvey.testing.model_folder import write_plausible_recogniser
from purvey.testing.scripted_engine import ScriptedLauncher

RATE_HZ = 8_000

pytestmark = pytest.mark.asyncio(loop_scope="module")


def recording(seconds: float, seed: int = 0) -> bytes:
    """Return noise as a WAV file."""
    chance, written = random.Random(seed), io.BytesIO()  # noqa: S311 (noise, not a secret)
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(chance.randbytes(2 * round(seconds * RATE_HZ)))
    return written.getvalue()


def _folder(kind: str, root: Path) -> Path:
    if kind == "real":
        torch = pytest.importorskip("torch")
        from purvey.models.speech.network import CtcEncoder
        from purvey.models.speech.recogniser import build_speech_model, save_speech_model
        from purvey.models.speech.vocabulary import Vocabulary

        torch.manual_seed(3)
        model = build_speech_model(
            architecture="ctc",
            hyperparameters={"width": 16, "depth": 2, "kernel": 5},
            spec=AudioSpec(sample_rate_hz=RATE_HZ, max_s=1.0, num_mels=16),
            vocabulary=Vocabulary.of(["ab c"]),
        )
        assert isinstance(model.module, CtcEncoder)
        with torch.no_grad():
            model.module.head.bias[:2] = torch.tensor([-4.5, 0.2])  # it says much, in words
        save_speech_model(model, root)
    else:
        write_plausible_recogniser(root)
    return root


def _launcher(kind: str, cwd: Path) -> EngineLauncher:
    if kind == "scripted":
        return ScriptedLauncher()
    return LocalEngineLauncher(cwd=cwd, command=COMMAND if kind == "ipc" else None)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["scripted", "ipc", "real"])
async def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EngineClient]:
    folder = _folder(request.param, tmp_path_factory.mktemp("recogniser"))
    launched = await _launcher(request.param, folder.parent).launch(_load(folder))
    yield launched
    await launched.close(timeout_s=10)


def _load(folder: Path) -> LoadModel:
    source = ModelSource(name="tiny", folder=str(folder), digest="0" * 64)
    return LoadModel(source=source, num_threads=1, kv_cache_bytes=2**20, max_batch_tokens=64)


def _asked(engine: EngineClient, data: bytes) -> AsyncGenerator[TranscriptEvent]:
    events = engine.transcribe(Transcribe(request_id=new_id("req_"), data=data))
    assert isinstance(events, AsyncGenerator)
    return events


async def _told(engine: EngineClient, data: bytes) -> tuple[list[Word], Transcribed]:
    """Collect the words, and the end that must come behind them all."""
    words: list[Word] = []
    end: Transcribed | None = None
    async for event in _asked(engine, data):
        assert end is None, "something came after the end"
        match event:
            case Heard():
                assert event.words
                words += event.words
            case Transcribed():
                end = event
    assert end is not None
    return words, end


async def test_an_engine_says_what_it_is_for(engine: EngineClient) -> None:
    assert engine.model.task == "speech-recognition"
    assert engine.model.labels == ()
    (spec,) = engine.model.inputs.values()
    assert isinstance(spec, AudioSpec)


async def test_words_come_in_order_with_their_times(engine: EngineClient) -> None:
    words, end = await _told(engine, recording(3.0))
    assert words
    assert end.audio_s > 0
    assert end.compute_s > 0
    assert not words[0].is_apart
    for word in words:
        assert word.text
        assert word.text == word.text.strip()
        assert 0 <= word.start_s < word.end_s <= end.audio_s + 0.1
        assert word.logprob <= 0
    assert all(a.start_s <= b.start_s for a, b in pairwise(words))


async def test_neighbours_do_not_change_a_bit(engine: EngineClient) -> None:
    recordings = [recording(seconds, seed) for seed, seconds in enumerate((0.4, 1.0, 2.3, 31.0))]
    alone = [(await _told(engine, data))[0] for data in recordings]
    together = await asyncio.gather(*(_told(engine, data) for data in recordings * 2))
    assert [words for words, _ in together] == alone * 2


async def test_a_recording_that_is_none_is_refused_by_name(engine: EngineClient) -> None:
    with pytest.raises(UserError) as raised:
        await _told(engine, b"")
    assert raised.value.param == "file"
    assert (await _told(engine, recording(0.5)))[1].audio_s > 0


async def test_a_model_for_recordings_does_nothing_else(engine: EngineClient) -> None:
    request_id = new_id("req_")
    with pytest.raises(MethodUnsupportedError):
        await engine.classify(
            Classify(request_id=request_id, inputs=({"input": TextInput(text="a")},))
        )
    asked = Generate(request_id=request_id, prompt=TextPrompt(text="a"), sampling=Sampling())
    with pytest.raises(MethodUnsupportedError):
        await anext(engine.generate(asked))


async def test_who_leaves_is_forgotten(engine: EngineClient) -> None:
    long = recording(60.0)
    async with aclosing(_asked(engine, long)) as events:
        assert isinstance(await anext(events), Heard)
    asked = [asyncio.ensure_future(_told(engine, long)) for _ in range(12)]
    await asyncio.sleep(0)
    for one in asked:
        one.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    async with asyncio.timeout(20):
        while (stats := engine.stats) and stats.running + stats.waiting:  # noqa: ASYNC110 (the other side is a process)
            await asyncio.sleep(0.01)
    assert (await _told(engine, recording(0.5)))[1].audio_s > 0


@pytest.mark.parametrize("kind", ["scripted", "ipc", "real"])
async def test_what_was_begun_is_finished_before_it_closes(kind: str, tmp_path: Path) -> None:
    folder = _folder(kind, tmp_path)
    engine = await _launcher(kind, tmp_path).launch(_load(folder))
    events = _asked(engine, recording(22.0))
    first = await anext(events)
    assert isinstance(first, Heard)
    closing = asyncio.ensure_future(engine.close(timeout_s=20))
    rest = [event async for event in events]
    assert isinstance(rest[-1], Transcribed)
    await closing
    with pytest.raises((ShuttingDownError, WorkerCrashedError)):
        await _told(engine, recording(0.5))
