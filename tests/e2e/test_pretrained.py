"""Networks that `transformers` computes, from their folders to answers, with real processes.

Tiny folders of ViT, Wav2Vec2 and CLIP are registered, trained, asked, explained and exported.
"""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from openai import OpenAI
from PIL import Image
from transformers import AutoModelForAudioClassification, AutoModelForImageClassification
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from purvey.client.answers import audio_input, image_input
from purvey.client.jobs import succeeded
from purvey.client.purvey import Purvey
from tests.numerics.clips import write_clip
from tests.numerics.encoders import wordpiece
from tests.numerics.pretrained import write_hearing, write_vit
from tests.unit.worker.image_jobs import zipped
from tests.unit.worker.sounds import CLASSES, sound, sounds_zip

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def client(live_server: Any) -> Iterator[Purvey]:
    with Purvey(live_server.base_url, live_server.admin_key) as ours:
        yield ours


@pytest.fixture(scope="module")
def official(live_server: Any) -> Iterator[OpenAI]:
    with live_server.openai() as official:
        yield official


def registered(live_server: Any, name: str, task: str) -> None:
    source = live_server.settings.model_roots[0] / name
    headers = {"authorization": f"Bearer {live_server.admin_key}"}
    url = f"{live_server.base_url}/v1/models"
    answer = httpx2.post(url, json={"id": name, "source": str(source)}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["task"] == task


def folder_of(live_server: Any, name: str) -> Path:
    return Path(live_server.settings.model_roots[0]) / name


def trained(client: Purvey, archive: Path, name: str, **recipe: Any) -> dict[str, Any]:
    made = client.datasets.create([client.files.upload(archive).id], name=name)
    dataset = client.datasets.wait(made.id).id
    job = client.training_jobs.create({"dataset": dataset, "name": name, **recipe})
    return succeeded(client.training_jobs.wait(job.id)).report or {}


def picture(colour: str, seed: int, *, width: int = 12) -> Image.Image:
    chance = np.random.default_rng(seed)
    pixels = chance.integers(0, 100, (12, width, 3), dtype=np.uint8)
    pixels[..., COLOURS.index(colour)] += 140
    return Image.fromarray(pixels)


def url_of(image: Image.Image) -> str:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def decided(official: OpenAI, model: str, image: Image.Image, values: tuple[str, ...]) -> Any:
    decision = official.decisions.create(
        model=model,
        input=[
            {
                "role": "user",
                "content": [{"type": "input_image", "image_url": url_of(image)}],
            }
        ],
        questions=[
            {
                "type": "choice",
                "instructions": "What is it?",
                "choices": [{"value": value} for value in values],
            }
        ],
    )
    return decision.answers[0]


@pytest.mark.train
def test_a_vision_transformer_gets_a_head(
    live_server: Any, client: Purvey, official: OpenAI, tmp_path: Path
) -> None:
    write_vit(folder_of(live_server, "tiny-vit"), labels=None)
    registered(live_server, "tiny-vit", "image-classification")
    archive = tmp_path / "colours.zip"
    archive.write_bytes(zipped((COLOURS[n % 3], picture(COLOURS[n % 3], n)) for n in range(90)))
    report = trained(
        client,
        archive,
        "colours",
        task="image-classification",
        model={"base": "tiny-vit"},
        train={"epochs": 8, "batch_size": 16, "freeze": ["network.vit.*"]},
    )
    assert report["accuracy"]["value"] >= 0.8
    answer = decided(official, "colours", picture("green", 200), COLOURS)
    assert answer.choice == "green"
    file = tmp_path / "green.png"
    picture("green", 200).save(file)
    [result] = client.answers.classify("colours", [image_input(file)]).results
    assert result.probabilities[0].probability == pytest.approx(answer.confidence, abs=1e-5)
    found = client.explanations.wait(client.explanations.create("colours", image_input(file)))
    assert (found.status, found.method) == ("completed", "occlusion")
    assert client.explanations.picture(found)
    assert len({unit.score for unit in found.units}) > 1
    client.models.export("colours", tmp_path / "out")
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert set(theirs.config.id2label.values()) == set(COLOURS)


@pytest.mark.train
def test_what_hears_samples_gets_a_head(live_server: Any, client: Purvey, tmp_path: Path) -> None:
    write_hearing(folder_of(live_server, "tiny-ears"), labels=None)
    registered(live_server, "tiny-ears", "audio-classification")
    archive = tmp_path / "sounds.zip"
    archive.write_bytes(sounds_zip(per_class=8))
    report = trained(
        client,
        archive,
        "pitches",
        task="audio-classification",
        model={"base": "tiny-ears"},
        train={"max_steps": 3, "batch_size": 8},
    )
    assert 0 <= report["accuracy"]["value"] <= 1
    file = tmp_path / "high.wav"
    file.write_bytes(sound("high", seed=99))
    [result] = client.answers.classify("pitches", [audio_input(file)]).results
    assert {one.label for one in result.probabilities} == set(CLASSES)
    client.models.export("pitches", tmp_path / "out")
    theirs = AutoModelForAudioClassification.from_pretrained(tmp_path / "out")
    assert set(theirs.config.id2label.values()) == set(CLASSES)


def test_clip_embeds_and_weighs_descriptions_as_transformers_does(
    live_server: Any, official: OpenAI
) -> None:
    folder = folder_of(live_server, "tiny-clip")
    theirs = write_clip(folder)
    registered(live_server, "tiny-clip", "embedding")
    image, texts = picture("red", 1, width=30), ("a red wall", "blue sky")
    given: Any = [{"image": url_of(image)}, *texts]
    answer = official.embeddings.create(model="tiny-clip", input=given)
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt").pixel_values
    logits = []
    for number, text in enumerate(texts, 1):
        ids = torch.tensor([wordpiece().encode(text).ids])
        with torch.no_grad():
            wanted = theirs(input_ids=ids, pixel_values=pixels)
        logits.append(wanted.logits_per_image[0])
        for one, vector_D in ((0, wanted.image_embeds[0]), (number, wanted.text_embeds[0])):
            found_D = torch.tensor(answer.data[one].embedding)
            torch.testing.assert_close(found_D, vector_D, atol=1e-5, rtol=0)
    counted = [len(wordpiece().encode(text).ids) for text in texts]
    assert answer.usage.prompt_tokens == sum(counted)
    choice = decided(official, "tiny-clip", image, texts)
    weighed = torch.cat(logits).double().softmax(0).tolist()
    assert [one.probability for one in choice.probabilities] == pytest.approx(weighed, abs=1e-4)
