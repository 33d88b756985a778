"""Sounds learned by the built-in network and by a user's, through the job that a worker runs."""

from pathlib import Path
from typing import Any

import pytest

from purvey.contracts.engine import AudioInput
from purvey.contracts.jobs import CheckpointSaved, InputDataset
from purvey.contracts.model import AudioSpec
from purvey.errors import InvalidValueError
from purvey.models.classifier import load_classifier
from purvey.worker.job_link import JobInterrupted
from tests.unit.worker.image_jobs import Quiet, image_dataset, job, recipe
from tests.unit.worker.sounds import CLASSES, sound, sounds_zip

SMALL: dict[str, Any] = {
    "task": "audio-classification",
    "name": "sounds",
    "dataset": "ds",
    "seed": 3,
    "model": {"architecture": "audio-convnet", "hyperparameters": {"width": 8, "stages": 3}},
    "preprocess": {"audio": {"sample_rate_hz": 8_000, "num_mels": 32}},
    "train": {"epochs": 8, "batch_size": 16},
}
OWN = """
import torch
from torch import nn
import purvey.module as pm

@pm.model(
    task="audio-classification", input=pm.Audio(sample_rate_hz=8_000, max_s=0.4, num_mels=32)
)
class Net(nn.Module):
    def __init__(self, *, num_classes, width=32):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(32, width, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten(),
            nn.Linear(4 * width, num_classes),
        )
    def forward(self, x_BMF):
        assert x_BMF.shape[1:] == (32, 41)
        return self.layers(x_BMF)
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> InputDataset:
    return image_dataset(tmp_path_factory.mktemp("sounds"), sounds_zip())


def test_sounds_are_learned_saved_and_told_apart(tmp_path: Path, dataset: InputDataset) -> None:
    report = job(tmp_path, SMALL, dataset).report
    assert report["accuracy"]["num_rows"] == 16
    assert report["accuracy"]["value"] >= 0.9
    classifier = load_classifier(tmp_path / "model")
    assert classifier.labels == tuple(sorted(CLASSES))
    assert classifier.manifest.is_calibrated
    (spec,) = classifier.manifest.inputs.values()
    assert isinstance(spec, AudioSpec)
    assert (spec.sample_rate_hz, spec.num_mels) == (8_000, 32)
    assert 0.35 < spec.max_s <= 0.4
    items = [
        classifier.prepare({"input": AudioInput(data=sound(label, seed=10_000))})
        for label in classifier.labels
    ]
    found = classifier.log_probabilities(items).argmax(dim=1).tolist()
    assert sum(found[i] == i for i in range(4)) >= 3


class Stopped(Quiet):
    """A link that asks to pause at the poll of that number."""

    def __init__(self, polls: int) -> None:
        self._left = polls
        self.folders: list[str] = []

    @property
    def stop_requested(self) -> str | None:  # type: ignore[override]
        self._left -= 1
        return "pause" if self._left < 0 else None

    def checkpoint(self, saved: object) -> None:
        assert isinstance(saved, CheckpointSaved)
        self.folders.append(saved.folder)


def test_a_run_with_augmentation_that_was_interrupted_ends_with_the_same_bits(
    tmp_path: Path, dataset: InputDataset
) -> None:
    values = {
        **SMALL,
        "augment": {"audio": {"frequency_masks": 2, "time_masks": 2, "shift_fraction": 0.2}},
        "train": {"epochs": 2, "batch_size": 16},
    }
    for name in ("whole", "torn"):
        (tmp_path / name).mkdir()
    job(tmp_path / "whole", values, dataset)
    link = Stopped(5)
    with pytest.raises(JobInterrupted):
        job(tmp_path / "torn", values, dataset, link=link)  # type: ignore[arg-type]
    job(tmp_path / "torn", values, dataset, resume_from=link.folders[-1])
    weights = [
        (tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "torn")
    ]
    assert weights[0] == weights[1]


def test_a_network_of_ones_own_hears_what_it_declares(
    tmp_path: Path, dataset: InputDataset
) -> None:
    own = tmp_path / "own.py"
    own.write_text(OWN, encoding="utf-8")
    values = {
        **SMALL,
        "model": {"architecture": f"{own}:Net"},
        "preprocess": {},
        "train": {"epochs": 12, "batch_size": 16},
    }
    report = job(tmp_path, values, dataset).report
    assert report["accuracy"]["value"] >= 0.8
    spec = load_classifier(tmp_path / "model").manifest.inputs["input"]
    assert spec == AudioSpec(sample_rate_hz=8_000, max_s=0.4, num_mels=32)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a network for images": (
        {"model": {"architecture": "convnet"}},
        "is for image-classification",
        "model.architecture",
    ),
    "an odd width": (
        {"model": {"architecture": "audio-convnet", "hyperparameters": {"width": 7}}},
        "must be a multiple of 8",
        "model.hyperparameters.width",
    ),
    "an unknown part": (
        {"model": {"architecture": "audio-convnet", "hyperparameters": {"stage": 2}}},
        "did you mean 'stages'",
        "model.hyperparameters.stage",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_network_cannot_be_is_refused_by_name(
    tmp_path: Path, dataset: InputDataset, what: str
) -> None:
    change, said, param = REFUSED[what]
    with pytest.raises(InvalidValueError, match=said) as refusal:
        job(tmp_path, {**SMALL, **change}, dataset)
    assert refusal.value.param is not None
    assert refusal.value.param.endswith(param)


def test_a_recording_is_told_alike_alone_and_beside_others(
    tmp_path: Path, dataset: InputDataset
) -> None:
    job(tmp_path, {**SMALL, "train": {"epochs": 1, "batch_size": 16}}, dataset)
    classifier = load_classifier(tmp_path / "model")
    items = [
        classifier.prepare({"input": AudioInput(data=sound("rising", seed=seed))})
        for seed in range(3)
    ]
    together = classifier.log_probabilities(items)
    alone = classifier.log_probabilities(items[:1])
    assert (together[:1] - alone).abs().max() < 1e-5


def test_the_recipe_of_the_repository_is_one_for_recordings() -> None:
    values = recipe("spoken-digits.toml")
    assert values["task"] == "audio-classification"
