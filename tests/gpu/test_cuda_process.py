"""A real engine process on a CUDA device answers as one on the processor does."""

from pathlib import Path

import pytest
import torch

from purvey.contracts.deployment import Device, Precision
from purvey.contracts.engine import Finished, Generate, LoadModel, Score, TextPrompt
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import Sampling
from purvey.engine.client import LocalEngineLauncher
from purvey.errors import SettingError
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.language import LanguageModel, save_language_model
from purvey.models.tokenizer import Tokenizer

pytestmark = pytest.mark.gpu
PROMPT = TextPrompt(text="the quick brown fox")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train(["the quick brown fox jumps"] * 9, vocabulary_size=270)
    config = DecoderConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        hidden_size=64,
        mlp_size=96,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_size=16,
        context_tokens=128,
        initializer_std=0.3,
        bos_id=tokenizer.bos_id,
    )
    decoder = Decoder(config)
    decoder.reset_parameters(torch.Generator().manual_seed(3))
    model = LanguageModel(decoder=decoder.eval(), tokenizer=tokenizer, template=None)
    save_language_model(made, model)
    return made


def _load(folder: Path, device: Device, precision: Precision) -> LoadModel:
    return LoadModel(
        source=ModelSource(name="tiny", folder=str(folder), digest="0" * 64),
        num_threads=1,
        kv_cache_bytes=4 * 2**20,
        max_batch_tokens=64,
        device=device,
        precision=precision,
    )


async def _answers(folder: Path, cwd: Path, device: Device) -> tuple[str, list[float], str]:
    engine = await LocalEngineLauncher(cwd=cwd).launch(_load(folder, device, "fp32"))
    try:
        sampling = Sampling(temperature=0.0, max_tokens=24)
        request = Generate(request_id="g", prompt=PROMPT, sampling=sampling)
        text = ""
        async for event in engine.generate(request):
            if isinstance(event, Finished):
                assert event.reason in ("stop", "length")
            text += getattr(event, "text", "")
        seeded = Sampling(temperature=1.0, top_p=0.9, seed=5, max_tokens=24, num_logprobs=2)
        drawn = Generate(request_id="h", prompt=PROMPT, sampling=seeded)
        drawn_text = "".join([getattr(e, "text", "") async for e in engine.generate(drawn)])
        scored = await engine.score(
            Score(request_id="s", pairs=((PROMPT, TextPrompt(text=" jumps")),))
        )
        return text, list(scored.logprobs[0]), drawn_text
    finally:
        await engine.close(timeout_s=20)


async def test_a_device_answers_as_the_processor_does(folder: Path, tmp_path: Path) -> None:
    theirs, ours = (
        await _answers(folder, tmp_path, "cpu"),
        await _answers(folder, tmp_path, "cuda"),
    )
    assert ours[0] == theirs[0]
    assert ours[1] == pytest.approx(theirs[1], abs=1e-4)
    assert ours[2] == theirs[2]


async def test_a_precision_that_a_device_lacks_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="bf16 or fp32"):
        await LocalEngineLauncher(cwd=tmp_path).launch(_load(folder, "cuda", "int8"))
