"""A real engine process that is sent what is no message: it ends, its neighbour answers on."""

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from purvey.contracts.engine import Cancel, Classify, LoadModel, TextInput
from purvey.contracts.model import ModelSource
from purvey.contracts.wire import pack
from purvey.engine.client import IpcEngine, LocalEngineLauncher
from purvey.errors import WorkerCrashedError
from purvey.models.classifier import build_classifier, save_classifier

BYTES = {
    "a framed pickle": struct.pack(">I", 34) + b"cposix\nsystem\n(S'touch canary'\ntR.",
    "four gigabytes": struct.pack(">I", 2**32 - 1) + b"a",
}


@pytest.fixture
async def engines(tmp_path: Path) -> AsyncIterator[list[IpcEngine]]:
    """Processes of one small classifier, one more than there are things to send."""
    folder = tmp_path / "classifier"
    folder.mkdir()
    torch.manual_seed(0)
    settings = {"buckets": 512, "width": 8}
    classifier = build_classifier(
        task="text-classification", labels=("ham", "spam"), hyperparameters=settings
    )
    save_classifier(classifier.with_manifest(temperature=1.0, is_calibrated=True), folder)
    source = ModelSource(name="spam", folder=str(folder), digest="0" * 64)
    load = LoadModel(source=source, num_threads=1, kv_cache_bytes=2**20, max_batch_tokens=64)
    launcher = LocalEngineLauncher(cwd=tmp_path)
    engines = await asyncio.gather(launcher.launch(load), *(launcher.launch(load) for _ in BYTES))
    yield engines
    for engine in engines:
        await engine.close(timeout_s=5)


async def _ask(engine: IpcEngine, request_id: str) -> int:
    asked = Classify(request_id=request_id, inputs=({"input": TextInput(text="a prize")},))
    return len((await engine.classify(asked)).probabilities)


@pytest.mark.row("NET-09")
async def test_an_engine_ends_at_bytes_that_do_not_fit(
    engines: list[IpcEngine], tmp_path: Path
) -> None:
    neighbour, *victims = engines
    for victim, sent in zip(victims, BYTES.values(), strict=True):
        assert await _ask(victim, "before") == 1
        victim._child._writer.write(pack(Cancel(request_id="unknown")) + sent)
        async with asyncio.timeout(60):
            while victim.is_alive:  # noqa: ASYNC110 (it has no event for it)
                await asyncio.sleep(0.02)
            with pytest.raises(WorkerCrashedError):
                await _ask(victim, "after")
            assert await _ask(neighbour, f"beside-{len(sent)}") == 1
    assert not (tmp_path / "canary").exists()
