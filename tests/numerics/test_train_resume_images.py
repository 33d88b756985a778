"""A run over images that change at every visit resumes with the very bits of one left alone."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from purvey.worker.job_link import JobInterrupted
from tests.numerics.test_train_resume import Link
from tests.unit.worker.image_jobs import image_dataset, job, zipped

CHANGES = {"crop_pixels": 1, "flip": True, "rotate_degrees": 15.0, "noise": 0.05}
HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "convnet": {"width": 8, "dropout": 0.3},
    "resnet": {"width": 8, "depth": 1, "dropout": 0.3},
    "vit": {"width": 16, "depth": 1, "dropout": 0.3},
}


def blots() -> bytes:
    chance = np.random.default_rng(1)
    pixels = [chance.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(60)]
    return zipped((str(number % 3), Image.fromarray(p)) for number, p in enumerate(pixels))


def recipe(architecture: str, *, seed: int = 5, **changes: Any) -> dict[str, Any]:
    return {
        "task": "image-classification",
        "model": {"architecture": architecture, "hyperparameters": HYPERPARAMETERS[architecture]},
        "augment": {"image": CHANGES | changes},
        "train": {"epochs": 2, "batch_size": 9, "early_stopping": None},
        "test": {"bootstrap_samples": 100},
        "seed": seed,
    }


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.row("CRA-23")
@pytest.mark.parametrize("architecture", HYPERPARAMETERS)
def test_resumed_weights_are_bit_equal(tmp_path: Path, architecture: str) -> None:
    dataset = image_dataset(tmp_path, blots())
    folders = {name: tmp_path / name for name in ("whole", "again", "other", "plain")}
    for folder in folders.values():
        folder.mkdir()
    values = recipe(architecture)
    job(folders["whole"], values, dataset)
    resume_from = None
    for stop in (1, 4):
        link = Link(stop_at=stop)
        with pytest.raises(JobInterrupted, match="pause"):
            job(folders["again"], values, dataset, link=link, resume_from=resume_from)
        resume_from = link.checkpoints[-1].folder
    job(folders["again"], values, dataset, resume_from=resume_from)
    job(folders["other"], recipe(architecture, seed=6), dataset)
    job(folders["plain"], recipe(architecture, noise=0.0), dataset)
    found = {name: weights(folder) for name, folder in folders.items()}
    assert found["whole"] == found["again"]
    assert len(set(found.values())) == 3  # the seed counts, and so does every change of an image
