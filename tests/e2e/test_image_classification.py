"""Colour images from a zip to a model that answers and is explained, with real processes.

The recipe is the task alone; the official client asks for the decision.
"""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from openai import OpenAI
from PIL import Image

from purvey.client.answers import image_input
from purvey.client.jobs import succeeded
from purvey.client.purvey import Purvey
from tests.unit.worker.image_jobs import zipped

MODEL = "spots"
LABELS = ("blank", "spot")


@pytest.fixture(scope="module")
def client(live_server: Any) -> Iterator[Purvey]:
    with Purvey(live_server.base_url, live_server.admin_key) as ours:
        yield ours


@pytest.fixture(scope="module")
def official(live_server: Any) -> Iterator[OpenAI]:
    with live_server.openai() as official:
        yield official


def picture(label: str, number: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return noise, 20 wide and 12 high, with a bright spot of 4 x 4 or without, and its corner."""
    chance = np.random.default_rng(number)
    pixels_HWC = chance.integers(0, 120, (12, 20, 3), dtype=np.uint8)
    left, top = int(chance.integers(0, 17)), int(chance.integers(0, 9))
    if label == "spot":
        pixels_HWC[top : top + 4, left : left + 4] += 130
    return Image.fromarray(pixels_HWC), (left, top)


@pytest.fixture(scope="module")
def report(client: Purvey, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    archive = tmp_path_factory.mktemp("spots") / "spots.zip"
    pictures = ((LABELS[n % 2], picture(LABELS[n % 2], n)[0]) for n in range(160))
    archive.write_bytes(zipped(pictures))
    uploaded = client.files.upload(archive)
    dataset = client.datasets.wait(client.datasets.create([uploaded.id], name=MODEL).id)
    assert dataset.labels == list(LABELS)
    job = client.training_jobs.create(
        {"task": "image-classification", "dataset": dataset.id, "name": MODEL}
    )
    assert (job.recipe or {})["model"]["architecture"] == "convnet"
    for _ in client.training_jobs.follow(job.id):
        pass
    return succeeded(client.training_jobs.get(job.id)).report or {}


def test_the_report_is_of_rows_that_training_never_saw(report: dict[str, Any]) -> None:
    assert report["accuracy"]["num_rows"] == 16
    assert report["accuracy"]["value"] >= 0.9


@pytest.mark.usefixtures("report")
def test_the_report_is_a_page_with_curves_matrix_and_origin(
    live_server: Any, client: Purvey
) -> None:
    [job] = [job for job in client.training_jobs.list() if job.trained_model == MODEL]
    url = f"{live_server.base_url}/v1/training/jobs/{job.id}/report"
    headers = {"authorization": f"Bearer {live_server.admin_key}", "accept": "text/html"}
    page = httpx2.get(url, headers=headers).raise_for_status().text
    for told in ("Of 16 rows", "Loss by step", "Confusion matrix", "Reliability", "PyTorch"):
        assert told in page, told


@pytest.mark.usefixtures("report")
@pytest.mark.parametrize("label", LABELS)
def test_a_decision_is_made_by_its_probabilities(
    client: Purvey, official: OpenAI, tmp_path: Path, label: str
) -> None:
    unseen, _ = picture(label, 1_000)
    encoded = io.BytesIO()
    unseen.save(encoded, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    decision = official.decisions.create(
        model=MODEL,
        input=[{"role": "user", "content": [{"type": "input_image", "image_url": url}]}],
        questions=[
            {
                "type": "choice",
                "instructions": "Is there a spot?",
                "choices": [{"value": label} for label in LABELS],
            }
        ],
    )
    [answer] = decision.answers
    assert answer.type == "choice"
    assert answer.choice == label
    file = tmp_path / "unseen.png"
    file.write_bytes(encoded.getvalue())
    [result] = client.answers.classify(MODEL, [image_input(file)]).results
    assert result.probabilities[0].label == label
    assert result.probabilities[0].probability == pytest.approx(answer.confidence, abs=1e-5)


@pytest.mark.usefixtures("report")
def test_occlusion_finds_the_spot(client: Purvey, tmp_path: Path) -> None:
    file = tmp_path / "spot.png"
    image, (left, top) = picture("spot", 2_000)
    image.save(file)
    found = client.explanations.wait(client.explanations.create(MODEL, image_input(file)))
    assert found.method == "occlusion"
    assert found.target is not None
    assert found.target.label == "spot"
    assert client.explanations.picture(found)
    best = max(found.units, key=lambda unit: unit.score)
    assert best.box is not None
    assert best.box[0] < left + 4
    assert best.box[2] > left
    assert best.box[1] < top + 4
    assert best.box[3] > top
