"""Grown classifiers, encoders and recognisers answer as the small ones do, and learn on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from purvey.contracts.model import AudioSpec, ImageSpec, InputSpec, ModelManifest, Task
from purvey.errors import InvalidValueError
from purvey.models.classifier import Classifier, build_classifier, load_classifier, save_classifier
from purvey.models.encoder.saving import save_encoder
from purvey.models.encoder.starting import start_encoder
from purvey.models.encoder.texts import collate
from purvey.models.scaling.networks import Asked, grow_classifier, grow_encoder, grow_recogniser
from purvey.models.speech.recogniser import SpeechModel, build_speech_model
from purvey.models.speech.vocabulary import Vocabulary
from tests.numerics.encoders import FAMILIES, tokenizer_of, write_encoder

# Float32 sums of a few hundred terms of order 1, in another order: relative errors below 1e-5.
TOLERANCE = 1e-4
ROWS = 24
LABELS = ("a", "b", "c")
IMAGE = ImageSpec(height=12, width=8, channels=1)
SOUND = AudioSpec(sample_rate_hz=4_000, max_s=1.0, num_mels=8)
NETWORKS: dict[str, tuple[Task, InputSpec | None, dict[str, Any], tuple[int, int]]] = {
    "vit": ("image-classification", IMAGE, {"width": 16, "depth": 2, "patch": 4}, (3, 2)),
    "resnet": ("image-classification", IMAGE, {"width": 8, "depth": 1, "stages": 2}, (2, 3)),
    "convnet": ("image-classification", IMAGE, {"width": 8, "stages": 2}, (2, 1)),
    "audio-convnet": ("audio-classification", SOUND, {"width": 8, "stages": 2}, (2, 1)),
    "text-ngrams": ("text-classification", None, {"width": 4, "buckets": 50}, (3, 1)),
}


def asked(width: int, depth: int) -> Asked:
    generator = torch.Generator().manual_seed(1)
    return Asked(name="small", width_factor=width, depth_factor=depth, generator=generator)


def stirred(module: nn.Module) -> nn.Module:
    """Move every weight off its first value: fresh gains, biases and heads would hide mistakes."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def classifier(architecture: str) -> Classifier:
    task, spec, hyperparameters, _ = NETWORKS[architecture]
    torch.manual_seed(0)
    made = build_classifier(
        task=task,
        labels=LABELS,
        architecture=architecture,
        hyperparameters=hyperparameters,
        inputs={} if spec is None else {"input": spec},
    )
    stirred(made.module)
    return made


def inputs(architecture: str) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    if architecture == "text-ngrams":
        features_F = torch.randint(50, (ROWS * 9,), generator=generator)
        return features_F, torch.rand(ROWS * 9, generator=generator), torch.arange(ROWS) * 9
    shape = (ROWS, 8, 30) if architecture == "audio-convnet" else (ROWS, 1, 12, 8)
    return (torch.rand(shape, generator=generator),)


def trained(module: nn.Module, loss: Callable[[], Tensor], *, steps: int) -> float:
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(loss())
        optimizer.step()
    with torch.no_grad():
        return float(loss())


@pytest.mark.parametrize("architecture", NETWORKS)
def test_a_network_keeps_its_logits_and_learns_on(architecture: str, tmp_path: Path) -> None:
    small, batch = classifier(architecture), inputs(architecture)
    width, depth = NETWORKS[architecture][3]
    targets = torch.arange(ROWS) % len(LABELS)
    trained(small.module, lambda: cross_entropy(small.logits(batch), targets), steps=10)
    large, growth = grow_classifier(small, asked(width, depth))
    with torch.no_grad():
        wanted, found = small.logits(batch), large.logits(batch)
    assert float((found - wanted).abs().max()) < TOLERANCE * float(wanted.abs().max())
    assert growth.largest_difference < TOLERANCE * float(wanted.abs().max())
    assert growth.parameters == large.num_parameters > width * small.num_parameters / 2
    assert bool(growth.new_layers) == (depth > 1)
    save_classifier(large, tmp_path)  # what was grown is a model like any other
    opened = load_classifier(tmp_path)
    with torch.no_grad():
        assert torch.equal(opened.logits(batch), found)
    before = float(cross_entropy(found, targets))
    after = trained(large.module, lambda: cross_entropy(large.logits(batch), targets), steps=10)
    assert after < before - 0.05, (before, after)


def test_deeper_layers_open_and_wider_copies_part_with_the_first_step() -> None:
    small, batch = classifier("vit"), inputs("vit")
    deep, growth = grow_classifier(small, asked(1, 2))
    with torch.no_grad():
        assert torch.equal(deep.logits(batch), small.logits(batch)), "closed layers add nothing"
    assert growth.new_layers == (1, 3)
    assert deep.manifest.hyperparameters["depth"] == 4
    large, _ = grow_classifier(small, asked(2, 2))
    targets = torch.arange(ROWS) % len(LABELS)
    trained(large.module, lambda: cross_entropy(large.logits(batch), targets), steps=2)
    weights = large.module.state_dict()
    first, second = weights["layers.0.attention_norm.weight"].chunk(2)
    assert float((first - second).abs().max()) > 1e-3
    assert float(weights["layers.1.down.weight"].abs().max()) > 1e-3


def test_a_recogniser_hears_the_same() -> None:
    vocabulary = Vocabulary.of(["sos help"])
    torch.manual_seed(0)
    sizes = {"width": 12, "depth": 2, "kernel": 3, "dropout": 0.0}
    small = build_speech_model(
        architecture=None, hyperparameters=sizes, spec=SOUND, vocabulary=vocabulary
    )
    stirred(small.module)
    x_BMF = torch.rand((3, 8, 40), generator=torch.Generator().manual_seed(4))
    frames_B = torch.tensor([40, 21, 33])

    def heard(model: SpeechModel) -> list[Tensor]:
        with torch.no_grad():
            logp_BTV = model.module(x_BMF, frames_B)
        return [logp_BTV[row, : -(-int(frames) // 4)] for row, frames in enumerate(frames_B)]

    large, growth = grow_recogniser(small, asked(2, 3))
    for mine, wanted in zip(heard(large), heard(small), strict=True):
        torch.testing.assert_close(mine, wanted, atol=TOLERANCE, rtol=TOLERANCE)
    assert growth.new_layers == (1, 2, 4, 5)
    assert large.manifest.hyperparameters == {**sizes, "width": 24, "depth": 6}
    assert large.module.reach_steps > small.module.reach_steps


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_scores_the_same_also_in_transformers(family: str, tmp_path: Path) -> None:
    write_encoder(tmp_path / "small", family, num_labels=3)
    labels = ("LABEL_0", "LABEL_1", "LABEL_2")
    started = start_encoder(tmp_path / "small", labels=labels)
    small = started.module.eval()
    large, growth = grow_encoder(small, asked(2, 1))
    tokenizer = tokenizer_of(family)
    texts = [tokenizer.encode(text) for text in ("a", "the quick brown fox")]
    batch = collate([(torch.tensor(one.ids), torch.tensor(one.type_ids)) for one in texts])
    with torch.no_grad():
        wanted, found = small(*batch), large(*batch)
    scale = float(wanted.abs().max())
    assert float((found - wanted).abs().max()) < TOLERANCE * scale
    assert (growth.kept, large.config.num_heads) == (1, 2 * small.config.num_heads)  # last bias
    manifest = ModelManifest(family="encoder", task="text-classification", labels=labels)
    save_encoder(tmp_path / "large", large, started.tokenizer, manifest)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "large").eval()
    with torch.no_grad():
        rows = [theirs(torch.tensor([one.ids])).logits[0] for one in texts]
    assert float((torch.stack(rows) - wanted).abs().max()) < TOLERANCE * scale


def test_what_does_not_grow_is_refused_with_the_reason(tmp_path: Path) -> None:
    write_encoder(tmp_path, "bert")
    encoder = start_encoder(tmp_path, labels=None).module
    odd = build_classifier(
        task="image-classification",
        labels=LABELS,
        architecture="vit",
        hyperparameters={"width": 16, "patch": 8},  # its first convolution has 4 channels, not 2
        inputs={"input": IMAGE},
    )
    for grow, width, depth, field, why in (
        (lambda a: grow_encoder(encoder, a), 1, 2, "depth_factor", "normalise the sum"),
        (lambda a: grow_classifier(classifier("convnet"), a), 1, 2, "depth_factor", "leads around"),
        (
            lambda a: grow_classifier(classifier("text-ngrams"), a),
            1,
            2,
            "depth_factor",
            "no layers",
        ),
        (lambda a: grow_classifier(odd, a), 3, 1, "width_factor", "whole number of times"),
        (lambda a: grow_classifier(odd, a), 4096, 1, "width_factor", "must be"),
    ):
        with pytest.raises(InvalidValueError, match=why) as refused:
            grow(asked(width, depth))
        assert refused.value.param == f"recipe.model.{field}"
