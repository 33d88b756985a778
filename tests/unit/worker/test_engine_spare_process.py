"""A real engine process that was started ahead: it imports first, and serves like any other."""

import asyncio
from pathlib import Path

import torch

from purvey.contracts.engine import Finished, Generate, LoadModel, TextPrompt
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import Sampling
from purvey.engine.client import LocalEngineLauncher
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.language import LanguageModel, save_language_model
from purvey.models.tokenizer import Tokenizer

WAIT_S = 240.0
"""It stands back while it imports, and a busy machine makes it wait."""


def write(folder: Path) -> None:
    """Write a tiny language model."""
    tokenizer = Tokenizer.train(["the cat sat on the mat"], vocabulary_size=270)
    torch.manual_seed(0)
    config = DecoderConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        hidden_size=16,
        mlp_size=24,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_size=8,
        context_tokens=64,
    )
    model = LanguageModel(decoder=Decoder(config), tokenizer=tokenizer, template=None)
    save_language_model(folder, model)


async def test_a_model_is_loaded_in_the_process_that_waits(tmp_path: Path) -> None:
    write(tmp_path / "model")
    launcher = LocalEngineLauncher(cwd=tmp_path)
    keeping = asyncio.create_task(launcher.keep_spare(1))
    async with asyncio.timeout(WAIT_S):
        while 1 not in launcher._spares or launcher._spares[1].pid is None:  # noqa: ASYNC110 (no event)
            await asyncio.sleep(0.02)
    waiting = launcher._spares[1].pid
    load = LoadModel(
        source=ModelSource(name="m", folder=str(tmp_path / "model"), digest="d" * 64),
        num_threads=1,
        kv_cache_bytes=2**20,
        max_batch_tokens=64,
        precision="int8",
        kept_folder=str(tmp_path / "kept"),
        kept_bytes=2**30,
    )
    engine = await launcher.launch(load)
    assert engine.pid == waiting
    request = Generate(
        request_id="one",
        prompt=TextPrompt(text="the cat"),
        sampling=Sampling(temperature=0.0, max_tokens=3),
    )
    events = [event async for event in engine.generate(request)]
    assert isinstance(events[-1], Finished)
    await engine.close(timeout_s=10)
    assert any(entry.is_dir() for entry in (tmp_path / "kept").iterdir())
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
