"""Images learned by the built-in networks, through the job that a worker runs.

What the numbers should be: a nearest neighbour classifier is right on 0.98 to 0.99 of these digits.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from purvey.contracts.engine import ImageInput
from purvey.contracts.jobs import InputDataset
from purvey.contracts.model import ImageSpec, InputSpec
from purvey.contracts.recipe_parts.inputs import AugmentConfig, ImageAugment
from purvey.data.loader import load_split
from purvey.errors import InvalidValueError
from purvey.models.classifier import build_classifier, load_classifier
from purvey.worker.training.inputs import PreparedRows
from tests.unit.parse.pictures import encoded
from tests.unit.worker.image_jobs import digits, image_dataset, job, recipe, zipped

SHORT = {"digits-convnet.toml": (4, 0.6), "digits-vit.toml": (3, 0.4)}
"""Epochs of the short form, and the test accuracy that they are enough for: chance is 0.1."""
WHOLE = {"digits-convnet.toml": 0.98, "digits-vit.toml": 0.96}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> InputDataset:
    return digits(tmp_path_factory.mktemp("digits"))


def accuracy(report: dict[str, Any]) -> float:
    assert report["accuracy"]["num_rows"] >= 179
    return float(report["accuracy"]["value"])


@pytest.mark.parametrize("name", SHORT)
def test_digits_are_learned_in_a_few_passes(
    tmp_path: Path, dataset: InputDataset, name: str
) -> None:
    epochs, wanted = SHORT[name]
    values = recipe(name) | {"augment": {}}
    values["train"] |= {"epochs": epochs}
    assert accuracy(job(tmp_path, values, dataset).report) >= wanted
    model = load_classifier(tmp_path / "model")
    assert model.manifest.inputs == {"input": ImageSpec(height=8, width=8, channels=1)}
    assert model.manifest.is_calibrated


@pytest.mark.train
@pytest.mark.parametrize("name", WHOLE)
def test_digits_are_read(tmp_path: Path, dataset: InputDataset, name: str) -> None:
    assert accuracy(job(tmp_path, recipe(name), dataset).report) >= WHOLE[name]


@pytest.mark.train
def test_defaults_are_enough_for_digits(tmp_path: Path, dataset: InputDataset) -> None:
    assert accuracy(job(tmp_path, {"task": "image-classification"}, dataset).report) >= 0.98


def sides(num_images: int) -> bytes:
    """Colour images, 20 wide and 12 high, bright at the left or at the right."""
    chance = np.random.default_rng(5)
    pictures = []
    for number in range(num_images):
        pixels_HWC = chance.integers(0, 120, (12, 20, 3), dtype=np.uint8)
        side = number % 2
        pixels_HWC[:, side * 10 : side * 10 + 10] += 100
        pictures.append((("left", "right")[side], Image.fromarray(pixels_HWC)))
    return zipped(pictures)


SMALL: dict[str, dict[str, Any]] = {
    "resnet": {"width": 16, "depth": 1},
    "vit": {"width": 32, "depth": 2},
}


@pytest.mark.parametrize("architecture", ["convnet", "resnet", "vit"])
def test_the_task_alone_is_a_recipe(tmp_path: Path, architecture: str) -> None:
    values: dict[str, Any] = {"task": "image-classification", "train": {"max_steps": 60}}
    if architecture in SMALL:
        values["model"] = {"architecture": architecture, "hyperparameters": SMALL[architecture]}
    trained = job(tmp_path, values, image_dataset(tmp_path, sides(80)))
    assert trained.report["accuracy"]["value"] >= 0.85
    model = load_classifier(tmp_path / "model")
    assert model.manifest.architecture == architecture
    assert model.manifest.inputs == {"input": ImageSpec(height=12, width=20, channels=3)}
    dark = Image.new("RGB", (40, 24), (60, 60, 60))
    dark.paste((160, 160, 160), (20, 0, 40, 24))  # twice the size: it is shrunk
    item = model.prepare({"input": ImageInput(data=encoded(dark))})
    p_L = model.log_probabilities([item]).exp()[0]
    assert model.labels[int(p_L.argmax())] == "right"


def test_images_of_another_size_are_asked_for_in_the_recipe(tmp_path: Path) -> None:
    values = {
        "task": "image-classification",
        "preprocess": {"image": {"height": 6, "channels": 1}},
        "train": {"max_steps": 2},
    }
    job(tmp_path, values, image_dataset(tmp_path, sides(40)))
    [spec] = load_classifier(tmp_path / "model").manifest.inputs.values()
    assert spec == ImageSpec(height=6, width=20, channels=1)


def test_images_change_while_training_and_never_else(tmp_path: Path) -> None:
    dataset = image_dataset(tmp_path, sides(40))
    rows = load_split(Path(dataset.folder), "train")
    inputs: dict[str, InputSpec] = {"input": ImageSpec(height=12, width=20)}
    classifier = build_classifier(
        task="image-classification", labels=("left", "right"), inputs=inputs
    )
    changes = AugmentConfig(image=ImageAugment(noise=0.5))
    plain = PreparedRows(classifier, rows, {"input": "image"}).logits(range(4))
    examples = PreparedRows(classifier, rows, {"input": "image"}, augment=changes)
    assert not torch.equal(examples.logits(range(4)), plain)
    with torch.no_grad():
        assert torch.equal(examples.logits(range(4)), plain)


UNUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mel bands": ({"preprocess": {"audio": {"num_mels": 80}}}, "recipe.preprocess.audio"),
    "bytes": ({"preprocess": {"text": {"max_bytes": 9}}}, "recipe.preprocess.text"),
    "masks": ({"augment": {"audio": {"time_masks": 1}}}, "recipe.augment.audio"),
    "a shift of all": (
        {"augment": {"image": {"crop_pixels": 12}}},
        "recipe.augment.image.crop_pixels",
    ),
    "another network": ({"model": {"architecture": "audio-convnet"}}, "model.architecture"),
    "no such network": ({"model": {"architecture": "lenet"}}, "model.architecture"),
    "a width": ({"model": {"hyperparameters": {"width": 12}}}, "model.hyperparameters.width"),
}


@pytest.mark.parametrize("case", UNUSED)
def test_what_has_no_effect_is_refused(tmp_path: Path, case: str) -> None:
    changes, param = UNUSED[case]
    with pytest.raises(InvalidValueError) as refusal:
        job(
            tmp_path,
            {"task": "image-classification", **changes},
            image_dataset(tmp_path, sides(40)),
        )
    assert refusal.value.param == param


def test_a_network_is_for_its_task(tmp_path: Path) -> None:
    dataset = image_dataset(tmp_path, sides(40))
    values = {"task": "text-classification", "model": {"architecture": "convnet"}}
    with pytest.raises(InvalidValueError, match="is for image-classification"):
        job(tmp_path, values, dataset)


def test_a_trained_network_is_a_base(tmp_path: Path) -> None:
    """Its inputs are its own, so `preprocess` has no effect and is refused."""
    dataset = image_dataset(tmp_path, sides(40))
    values = {"task": "image-classification", "train": {"max_steps": 2}}
    job(tmp_path, values, dataset)
    before = load_classifier(tmp_path / "model").module.state_dict()
    base = tmp_path / "model"
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    job(tuned, values | {"model": {"base": "first"}}, dataset, base=base)
    after = load_classifier(tuned / "model").module.state_dict()
    assert before.keys() == after.keys()
    assert not all(torch.equal(before[name], after[name]) for name in before)
    shaped = values | {
        "model": {"base": "first"},
        "preprocess": {"image": {"height": 12}},
    }
    with pytest.raises(InvalidValueError) as refusal:
        job(tuned, shaped, dataset, base=base)
    assert refusal.value.param == "recipe.preprocess.image"
