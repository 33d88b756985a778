"""The built-in text classifier: built by name, saved, loaded, refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from purvey.contracts.engine import TextInput
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.classifier import Classifier, build_classifier, load_classifier, save_classifier
from purvey.models.folder.safetensors_file import write_tensors


def build(**hyperparameters: Any) -> Classifier:
    return build_classifier(
        task="text-classification",
        labels=("ham", "spam"),
        hyperparameters={"buckets": 256, "width": 4, **hyperparameters},
    )


def logits(classifier: Classifier) -> torch.Tensor:
    items = [classifier.prepare({"input": TextInput(text=text)}) for text in ("free", "你好", "")]
    return classifier.logits(classifier.collate(items))


def test_a_saved_classifier_is_the_same_when_loaded(tmp_path: Path) -> None:
    classifier = build(dropout=0.5)
    save_classifier(classifier, tmp_path)
    again = load_classifier(tmp_path)
    classifier.module.eval()
    assert torch.equal(logits(again), logits(classifier))
    assert again.manifest == classifier.manifest
    assert again.labels == ("ham", "spam")


def test_temperature_softens_probabilities() -> None:
    classifier = build()
    item = classifier.prepare({"input": TextInput(text="free")})
    sharp = classifier.log_probabilities([item])
    soft = classifier.with_manifest(temperature=1e6).log_probabilities([item])
    assert soft.exp().tolist()[0] == pytest.approx([0.5, 0.5], abs=1e-4)
    assert not torch.equal(sharp, soft)


@pytest.mark.parametrize(
    ("hyperparameters", "named"),
    [
        ({"bukets": 3}, "bukets"),
        ({"buckets": 0}, "buckets"),
        ({"buckets": 2**24, "width": 1024}, "buckets"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_a_wrong_hyperparameter_is_refused(hyperparameters: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidValueError) as refusal:
        build(**hyperparameters)
    assert refusal.value.param == f"model.hyperparameters.{named}"


def test_a_table_that_no_host_holds_is_refused_before_it_is_built() -> None:
    with pytest.raises(InvalidValueError, match=r"100 labels x \(16777216 \+ 1\)") as refusal:
        build_classifier(
            task="text-classification",
            labels=[str(number) for number in range(100)],
            hyperparameters={"buckets": 1, "width": 2**24},
        )
    assert refusal.value.param == "recipe.model.hyperparameters"


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="two labels"):
        build_classifier(task="text-classification", labels=("one",))
    with pytest.raises(InvalidValueError, match="one image and nothing else"):
        build_classifier(task="image-classification", labels=("a", "b"))
    with pytest.raises(InvalidValueError, match=r"file\.py:Class"):
        build_classifier(task="image-classification", labels=("a", "b"), architecture="lenet")
    with pytest.raises(InvalidValueError, match="text-ngrams"):
        build_classifier(task="image-classification", labels=("a", "b"), architecture="text-ngrams")


def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    classifier = build()
    save_classifier(classifier, tmp_path)
    weights = tmp_path / "model.safetensors"
    state = classifier.module.state_dict()
    write_tensors({**state, "extra": torch.ones(1)}, weights)
    with pytest.raises(InvalidCheckpointError, match="'extra'"):
        load_classifier(tmp_path)
    write_tensors({**state, "table": torch.ones(2, 4)}, weights)
    with pytest.raises(InvalidCheckpointError, match="'table'"):
        load_classifier(tmp_path)
    weights.unlink()
    with pytest.raises(InvalidCheckpointError, match=r"model\.safetensors"):
        load_classifier(tmp_path)
    (tmp_path / "x.pt").touch()
    with pytest.raises(InvalidCheckpointError, match=r"x\.pt"):
        load_classifier(tmp_path)


def test_a_broken_manifest_is_refused(tmp_path: Path) -> None:
    save_classifier(build(), tmp_path)
    path = tmp_path / "purvey.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "family": "pickle"}), encoding="utf-8")
    with pytest.raises(InvalidCheckpointError, match=r"purvey\.json"):
        load_classifier(tmp_path)
