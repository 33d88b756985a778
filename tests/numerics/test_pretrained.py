"""Networks that `transformers` wrote for images and sounds are served, and get new heads."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    ViTImageProcessor,
    Wav2Vec2FeatureExtractor,
)

from purvey.contracts.engine import AudioInput, ImageInput, NamedInputs
from purvey.contracts.model import AudioSpec, ImageSpec, ModelSource
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.classifier import Classifier
from purvey.models.folder.manifest import read_manifest
from purvey.models.inputs.audio import waveform
from purvey.models.loading import open_model
from purvey.parse.parser import DecoderHere
from purvey.registry.folder_check import check_folder
from tests.numerics.pretrained import PREPARED, write_hearing, write_vit
from tests.unit.worker.image_jobs import image_dataset, job, zipped
from tests.unit.worker.sounds import CLASSES, sound, sounds_zip

TOLERANCE = 1e-4


def _open(folder: Path) -> Classifier:
    model = open_model(ModelSource(name="vit", folder=str(folder), digest="0" * 64))
    assert isinstance(model, Classifier)
    return model


def _picture(seed: int, *, colour: int = 0, side: int = 12) -> Image.Image:
    chance = np.random.default_rng(seed)
    pixels = chance.integers(0, 120, (side, side, 3), dtype=np.uint8)
    pixels[..., colour] += 120
    return Image.fromarray(pixels)


def _logits(model: Classifier, picture: Image.Image) -> torch.Tensor:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    given: NamedInputs = {"input": ImageInput(data=encoded.getvalue())}
    with torch.no_grad():
        return model.logits(model.collate([model.prepare(given, decoder=DecoderHere())]))[0]


def test_it_answers_as_transformers_does(tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    theirs = write_vit(folder, labels={0: "red", 1: "绿", 2: "blue"})
    checked = check_folder(folder, model_roots=[tmp_path])
    assert (checked.manifest.family, checked.manifest.labels) == ("vit", ("red", "绿", "blue"))
    ours = _open(folder)
    assert ours.manifest.inputs["input"] == ImageSpec(
        height=12, width=12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)
    )
    picture = _picture(1)
    pixels_CHW = (np.asarray(picture) / 255 - PREPARED["image_mean"]) / PREPARED["image_std"]
    with torch.no_grad():
        x_BCHW = torch.tensor(pixels_CHW.transpose(2, 0, 1)[None], dtype=torch.float32)
        wanted = theirs(pixel_values=x_BCHW).logits[0]
    torch.testing.assert_close(_logits(ours, picture), wanted, atol=TOLERANCE, rtol=0)


def test_a_head_is_trained_on_it_and_opens_in_transformers(tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_vit(base, labels=None)
    with pytest.raises(InvalidCheckpointError, match="no labels"):
        _open(base)
    names = ("red", "green", "blue")
    pictures = [(names[n % 3], _picture(n, colour=n % 3)) for n in range(90)]
    dataset = image_dataset(tmp_path, zipped(pictures))
    values = {
        "task": "image-classification",
        "model": {"base": "vit"},
        "train": {"epochs": 6, "batch_size": 16, "freeze": ["network.vit.*"]},
        "test": {"bootstrap_samples": 100},
    }
    job(tmp_path, values, dataset, base=base)
    made = tmp_path / "model"
    manifest = read_manifest(made)
    started = manifest.lineage["initialised"]
    assert started["fresh"] == ["network.classifier.weight", "network.classifier.bias"]
    assert manifest.report["accuracy"]["value"] >= 0.9
    theirs = AutoModelForImageClassification.from_pretrained(made)
    assert [theirs.config.id2label[n] for n in range(3)] == list(manifest.labels)
    picture = _picture(200, colour=1)
    inputs = ViTImageProcessor.from_pretrained(made)
    assert list(inputs.image_mean) == PREPARED["image_mean"]
    ours = _logits(_open(made), picture)
    assert manifest.labels[int(ours.argmax())] == "green"
    pixels_CHW = (np.asarray(picture) / 255 - PREPARED["image_mean"]) / PREPARED["image_std"]
    with torch.no_grad():
        x_BCHW = torch.tensor(pixels_CHW.transpose(2, 0, 1)[None], dtype=torch.float32)
        wanted = theirs(pixel_values=x_BCHW).logits[0]
    torch.testing.assert_close(ours, wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("preprocessor_config.json", {"do_rescale": False}, "describes no input"),
        ("preprocessor_config.json", {"image_std": [0.1, 0.0, 0.1]}, "describes no input"),
        ("config.json", {"image_size": 2**20}, "describes no input"),
        ("config.json", {"num_channels": 7}, "describes no input"),
        ("config.json", {"num_hidden_layers": 3}, "missing or misshapen"),
        ("config.json", {"auto_map": {"AutoModel": "m.M"}}, "names code"),
        ("config.json", {"hidden_size": 33}, "cannot load|misshapen"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, file: str, changes: dict[str, object], told: str
) -> None:
    write_vit(tmp_path, labels={0: "a", 1: "b"})
    values = json.loads((tmp_path / file).read_text()) | changes
    (tmp_path / file).write_text(json.dumps(values))
    with pytest.raises(InvalidCheckpointError, match=told):
        _open(tmp_path)


def _their_logits(theirs: Any, folder: Path, data: bytes) -> torch.Tensor:
    """Return the logits of one recording by itself, prepared by the library."""
    samples_T = waveform(data, sample_rate_hz=16_000, max_s=30.0, decoder=DecoderHere())
    prepare = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    given = prepare(samples_T.numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        logits_L: torch.Tensor = theirs(given.input_values).logits[0]
    return logits_L


def _heard(model: Classifier, recordings: list[bytes]) -> torch.Tensor:
    given: list[NamedInputs] = [{"input": AudioInput(data=data)} for data in recordings]
    rows = [model.prepare(one, decoder=DecoderHere()) for one in given]
    with torch.no_grad():
        return model.logits(model.collate(rows))


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_sounds_are_heard_as_transformers_hears_them(tmp_path: Path, norm: str) -> None:
    labels = dict(enumerate(CLASSES))
    theirs = write_hearing(tmp_path, labels=labels, feat_extract_norm=norm)
    model = _open(tmp_path)
    assert model.manifest.inputs["input"] == AudioSpec(max_s=30.0, num_mels=0)
    assert (model.manifest.task, model.labels) == ("audio-classification", tuple(CLASSES))
    recordings = [sound(label, seed=1) for label in CLASSES]  # of different lengths
    found = _heard(model, recordings)
    for logits_L, data in zip(found, recordings, strict=True):
        wanted_L = _their_logits(theirs, tmp_path, data)
        torch.testing.assert_close(logits_L, wanted_L, atol=TOLERANCE, rtol=0)
    assert torch.equal(_heard(model, recordings[:1])[0], found[0])  # no neighbour counts


def test_a_head_is_trained_on_what_hears(tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_hearing(base, labels=None)
    dataset = image_dataset(tmp_path, sounds_zip(per_class=12))
    values = {
        "task": "audio-classification",
        "model": {"base": "w"},
        "optimizer": {"learning_rate": 1e-3},
        "train": {"batch_size": 8, "max_steps": 3},
        "test": {"bootstrap_samples": 100},
    }
    job(tmp_path, values, dataset, base=base)
    made = tmp_path / "model"
    manifest = read_manifest(made)
    assert manifest.lineage["initialised"]["fresh"] == [
        f"network.{layer}.{part}"
        for layer in ("projector", "classifier")
        for part in ("weight", "bias")
    ]
    (spec,) = manifest.inputs.values()
    assert isinstance(spec, AudioSpec)
    assert 0.3 < spec.max_s <= 0.41
    theirs = AutoModelForAudioClassification.from_pretrained(made).eval()
    data = sound("rising", seed=77)
    wanted_L = _their_logits(theirs, made, data)
    torch.testing.assert_close(_heard(_open(made), [data])[0], wanted_L, atol=TOLERANCE, rtol=0)
    again = tmp_path / "again"  # the library draws nothing that the seed does not decide
    again.mkdir()
    job(again, values, dataset, base=base)
    files = [folder / "model" / "model.safetensors" for folder in (tmp_path, again)]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(InvalidValueError, match="not image-classification"):
        job(tmp_path, values | {"task": "image-classification"}, dataset, base=base)
