"""FIL-07 in a real engine process: hostile images cost their request, not the engine's memory."""

import asyncio
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio
import torch
from PIL import Image

from purvey.contracts.engine import Classify, Explain, ImageInput, LoadModel, NamedInputs
from purvey.contracts.explain import ExplanationRequest
from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ModelSource
from purvey.engine.client import IpcEngine, LocalEngineLauncher
from purvey.errors import UserError
from purvey.models.classifier import build_classifier, save_classifier
from tests.matrix.memory import peak_growth
from tests.unit.parse.pictures import encoded, grey_png, scan_bomb

pytestmark = [pytest.mark.row("FIL-07", "FIL-09"), pytest.mark.asyncio(loop_scope="module")]
BRIGHTNESS = """
from torch import nn
import torch
import purvey.module as pm

@pm.model(task="image-classification", input=pm.Image(height=4, width=4, channels=1))
class Net(nn.Module):
    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, x_BCHW):
        level_B = (x_BCHW.mean((1, 2, 3)) - 0.5) * self.scale
        return torch.stack([-level_B, level_B], dim=1)
"""
DARK, LIGHT = encoded(Image.new("L", (5, 5), 0)), encoded(Image.new("L", (5, 5), 255))
WIDEST = LIMITS.image_pixels // 4_000
SLACK_BYTES = 48 * 2**20
"""Frames on their way, and what the allocator adds; pixels would be many times that."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[IpcEngine]:
    """A process that tells dark images from light ones."""
    folder = tmp_path_factory.mktemp("brightness")
    (folder / "modules").mkdir()
    (folder / "modules" / "brightness.py").write_text(BRIGHTNESS, encoding="utf-8")
    torch.manual_seed(0)
    classifier = build_classifier(
        task="image-classification",
        labels=("dark", "light"),
        architecture="brightness.py:Net",
        module_roots=[str(folder / "modules")],
    )
    save_classifier(classifier, folder / "model")
    source = ModelSource(name="brightness", folder=str(folder / "model"), digest="0" * 64)
    load = LoadModel(source=source, num_threads=1, kv_cache_bytes=2**20, max_batch_tokens=64)
    engine = await LocalEngineLauncher(cwd=folder).launch(load)
    yield engine
    assert engine.is_alive
    await engine.close(timeout_s=30)


async def classes(engine: IpcEngine, *images: bytes) -> list[str]:
    inputs: tuple[NamedInputs, ...] = tuple({"input": ImageInput(data=data)} for data in images)
    answer = await engine.classify(Classify(request_id=new_id("req_"), inputs=inputs))
    return ["light" if light > dark else "dark" for dark, light in answer.probabilities]


async def test_fil07_hostile_images_leave_the_engine_as_it_was(engine: IpcEngine) -> None:
    hostile = [
        grey_png(50_000, 50_000, rows=1_000),
        grey_png(14_000, 14_000),
        grey_png(0, 0),
        encoded(Image.effect_noise((64, 64), 100))[:500],
        b"",
    ]
    assert await classes(engine, DARK, LIGHT) == ["dark", "light"]
    with peak_growth(engine.pid) as growth:
        for data in hostile:
            with pytest.raises(UserError) as refusal:
                await classes(engine, LIGHT, data)
            assert (refusal.value.code, refusal.value.param) == ("invalid_value", "input")
            assert "0x" not in refusal.value.text
            assert await classes(engine, LIGHT, DARK) == ["light", "dark"]
        huge = encoded(Image.new("RGB", (WIDEST, 4_000), (255, 255, 255)), compress_level=1)
        assert await classes(engine, huge) == ["light"]
        assert growth() < SLACK_BYTES


async def test_fil09_the_images_of_one_request_share_a_budget(engine: IpcEngine) -> None:
    whole = grey_png(WIDEST, 4_000)
    count = LIMITS.request_pixels // LIMITS.image_pixels
    assert await classes(engine, *[whole] * count) == ["dark"] * count
    for more in (1, 16):
        with pytest.raises(UserError, match="pixels of a request"):
            await classes(engine, *[whole] * count, *[grey_png(1, 1)] * more)
    assert await classes(engine, whole) == ["dark"]  # the next request has its own


async def test_a_slow_image_holds_up_neither_others_nor_explanations(engine: IpcEngine) -> None:
    assert await classes(engine, DARK) == ["dark"]
    slow = asyncio.create_task(classes(engine, scan_bomb(4_000, 100_000)))
    for _ in range(3):
        assert await classes(engine, LIGHT) == ["light"]
    assert not slow.done()
    request = ExplanationRequest(image=LIGHT, label="light", random_orders=2, curve_points=2)
    explained = await engine.explain(Explain(request_id=new_id("req_"), request=request))
    assert explained.result.units
    with pytest.raises(UserError, match="simpler one") as refusal:
        await slow
    assert refusal.value.param == "input"


async def test_fil07_killed_parsers_are_replaced_for_the_next_request(engine: IpcEngine) -> None:
    assert await classes(engine, DARK) == ["dark"]
    parsers = psutil.Process(engine.pid).children()
    assert parsers
    for parser in parsers:
        parser.kill()
    assert await classes(engine, LIGHT) == ["light"]
    assert not set(parsers) & set(psutil.Process(engine.pid).children())
