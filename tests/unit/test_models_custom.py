"""A user's module: found under a root only, checked by its declaration, run from its own copy."""

from pathlib import Path
from typing import Any

import pytest
import torch

from purvey.contracts.engine import ImageInput, NumberInput, TextInput
from purvey.contracts.model import CategorySpec, ImageSpec, ModelSource, NumberSpec, TextSpec
from purvey.errors import IntegrityError, InvalidCheckpointError, InvalidValueError, PurveyError
from purvey.models.classifier import Classifier, build_classifier, save_classifier
from purvey.models.loading import open_model

MIXED = """
from dataclasses import dataclass
import torch
from torch import nn
import purvey.module as pm

@dataclass
class Plan:
    width: int = 3

@pm.model(task="classification", inputs={"note": pm.Text(max_bytes=5), "age": pm.Number()})
class Net(nn.Module):
    def __init__(self, *, num_classes: int, width: int = Plan().width) -> None:
        super().__init__()
        self.table = nn.Embedding(257, width)
        self.head = nn.Linear(width + 1, num_classes)

    def forward(self, note_BT, age_B):
        x = torch.cat([self.table(note_BT).mean(1), age_B[:, None]], dim=1)
        return self.head(x)

@pm.model(task="classification", input=pm.Number())
class Wrong(nn.Module):
    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x_B):
        return self.w * x_B

class Undeclared(nn.Module): ...

NotAClass = 3

@pm.model(
    task="regression",
    inputs={"place": pm.Category(values=("north", "南")), "size": pm.Number(mean=10.0, std=4.0)},
)
class Priced(nn.Module):
    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(num_classes))

    def forward(self, place_B, size_B):
        return (place_B + size_B)[:, None] * self.w

@pm.model(task="classification", input=pm.Number())
class Failing(nn.Module):
    def __init__(self, *, num_classes: int) -> None:
        raise RuntimeError("no such device")
"""
PRICED: list[dict[str, Any]] = [
    {"place": TextInput(text="南"), "size": NumberInput(value=18.0)},
    {"place": TextInput(text="elsewhere"), "size": NumberInput(value=0.0)},
]
UNSTORABLE = """
import torch
from torch import nn
import purvey.module as pm

@pm.model(task="classification", input=pm.Number())
class Net(nn.Module):
    def __init__(self, *, num_classes: int, kind: str) -> None:
        super().__init__()
        self.head = nn.Linear(1, num_classes)
        buffers = {
            "complex": torch.ones(2, dtype=torch.complex64),
            "sparse": torch.eye(2).to_sparse(),
            "deep": torch.ones((1,) * 9),
            "half": torch.ones(2, dtype=torch.float16),
        }
        self.register_buffer("kernel", buffers[kind.removeprefix("own ")],
                             persistent=not kind.startswith("own"))

    def forward(self, x_B):
        return self.head(x_B[:, None])
"""
ROWS: list[dict[str, Any]] = [
    {"note": TextInput(text="hello world"), "age": NumberInput(value=1.0)},
    {"note": TextInput(text=""), "age": NumberInput(value=-2.0)},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "mixed.py").write_text(MIXED, encoding="utf-8")
    return folder


def build(root: Path, architecture: str = "mixed.py:Net", **hyperparameters: Any) -> Classifier:
    return build_classifier(
        task="classification",
        labels=("a", "b", "c"),
        architecture=architecture,
        hyperparameters=hyperparameters,
        module_roots=[str(root)],
    )


def answers(classifier: Classifier) -> torch.Tensor:
    return classifier.log_probabilities([classifier.prepare(row) for row in ROWS])


def test_inputs_and_hyperparameters_reach_the_module(root: Path) -> None:
    classifier = build(root, width=7)
    assert classifier.manifest.inputs == {"note": TextSpec(max_bytes=5), "age": NumberSpec()}
    note, age = classifier.prepare(ROWS[0])
    assert note.tolist() == [byte + 1 for byte in b"hello"]
    assert classifier.prepare(ROWS[1])[0].tolist() == [0] * 5
    assert age.item() == 1.0
    assert answers(classifier).exp().sum(dim=1).tolist() == pytest.approx([1.0, 1.0])
    assert classifier.num_parameters == 257 * 7 + 8 * 3 + 3


def test_a_category_arrives_as_its_place_and_a_number_in_deviations(root: Path) -> None:
    made = build_classifier(
        task="regression", labels=(), architecture="mixed.py:Priced", module_roots=[str(root)]
    )
    place = CategorySpec(values=("north", "南"))
    assert made.manifest.inputs == {"place": place, "size": NumberSpec(mean=10.0, std=4.0)}
    rows = [made.prepare(row) for row in PRICED]
    assert [(int(place), float(size)) for place, size in rows] == [(2, 2.0), (0, -2.5)]
    scores = made.with_manifest(score=NumberSpec(mean=100.0, std=2.0)).answers(
        made.logits(made.collate(rows))
    )
    assert scores.tolist() == [[100 + 2 * (2 + 2.0)], [100 + 2 * (0 - 2.5)]]


def test_a_saved_module_answers_from_its_own_copy(root: Path, tmp_path: Path) -> None:
    classifier = build(root)
    folder = tmp_path / "saved"
    save_classifier(classifier.with_manifest(temperature=2.0), folder)
    (root / "mixed.py").write_text("raise RuntimeError('the root is not read')", encoding="utf-8")
    opened = open_model(ModelSource(name="m", folder=str(folder), digest="0"))
    assert isinstance(opened, Classifier)
    assert torch.equal(
        opened.logits(opened.collate([opened.prepare(row) for row in ROWS])),
        classifier.logits(classifier.collate([classifier.prepare(row) for row in ROWS])),
    )
    assert opened.manifest.temperature == 2.0
    assert not opened.module.training


def test_a_changed_copy_is_never_run(root: Path, tmp_path: Path) -> None:
    folder, canary = tmp_path / "saved", tmp_path / "canary"
    save_classifier(build(root), folder)
    copy = folder / "mixed.py"
    copy.write_text(f"open({str(canary)!r}, 'w')\n{MIXED}", encoding="utf-8")
    source = ModelSource(name="m", folder=str(folder), digest="0")
    with pytest.raises(IntegrityError):
        open_model(source)
    assert not canary.exists()
    copy.unlink()
    with pytest.raises(InvalidCheckpointError, match=r"mixed\.py"):
        open_model(source)


@pytest.mark.parametrize(
    "architecture",
    [
        "../outside.py:Net",
        "/etc/passwd:Net",
        "sub/../../outside.py:Net",
        "link.py:Net",
        "absent.py:Net",
        "mixed.py",
        "mixed.py:Net:x",
        "mixed.txt:Net",
        "mixed.py:Undeclared",
        "mixed.py:NotAClass",
        "mixed.py:Absent",
        "mixed.py:Failing",
        "broken.py:Net",
        "decoder",
    ],
)
def test_a_wrong_reference_is_refused(root: Path, architecture: str) -> None:
    outside = root.parent / "outside.py"
    outside.write_text(MIXED, encoding="utf-8")
    (root / "link.py").symlink_to(outside)
    (root / "broken.py").write_text("import nothing_of_that_name", encoding="utf-8")
    with pytest.raises(InvalidValueError) as refusal:
        build(root, architecture)
    assert refusal.value.param in {"model.architecture", "model.hyperparameters"}


def test_hyperparameters_are_checked_by_name(root: Path) -> None:
    with pytest.raises(InvalidValueError, match="width") as refusal:
        build(root, widht=3)
    assert refusal.value.param == "model.hyperparameters.widht"
    with pytest.raises(InvalidValueError, match="num_classes"):
        build(root, num_classes=3)


def test_a_module_for_another_task_is_refused(root: Path) -> None:
    with pytest.raises(InvalidValueError, match="classification") as refusal:
        build_classifier(
            task="image-classification",
            labels=("a", "b"),
            architecture="mixed.py:Net",
            module_roots=[str(root)],
        )
    assert refusal.value.param == "task"


def test_logits_of_another_shape_are_refused(root: Path) -> None:
    classifier = build(root, "mixed.py:Wrong")
    item = classifier.prepare({"input": NumberInput(value=1.0)})
    with pytest.raises(InvalidValueError, match="returned"):
        classifier.logits(classifier.collate([item]))


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"note": TextInput(text="x")}, "age"),
        ({**ROWS[0], "weight": NumberInput(value=1)}, "weight"),
        ({**ROWS[0], "age": TextInput(text="old")}, "age"),
        ({**ROWS[0], "age": NumberInput(value=float("inf"))}, "age"),
        ({**ROWS[0], "note": ImageInput(data=b"")}, "note"),
    ],
)
def test_a_wrong_input_is_refused_by_name(root: Path, row: dict[str, Any], named: str) -> None:
    with pytest.raises(PurveyError) as refusal:
        build(root).prepare(row)
    assert refusal.value.param == named


def test_image_declarations_become_the_manifests(root: Path) -> None:
    program = MIXED + (
        '\n@pm.model(task="image-classification", input=pm.Image(height=4, width=5, channels=1))\n'
        "class Picture(nn.Module):\n"
        "    def __init__(self, *, num_classes):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(20, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.head(x.flatten(1))\n"
    )
    (root / "picture.py").write_text(program, encoding="utf-8")
    classifier = build_classifier(
        task="image-classification",
        labels=("a", "b"),
        architecture="picture.py:Picture",
        module_roots=["/nowhere", str(root)],
    )
    assert classifier.manifest.inputs == {"input": ImageSpec(height=4, width=5, channels=1)}


TIED = """
import torch
from torch import nn
import purvey.module as pm

@pm.model(task="classification", input=pm.Number())
class Net(nn.Module):
    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.inner = nn.Linear(num_classes, num_classes)
        self.outer = nn.Linear(num_classes, num_classes)
        self.outer.weight = self.inner.weight
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, x_B):
        x_BL = x_B[:, None] + torch.exp(self.mask)
        return self.outer(self.inner(x_BL))
"""


def test_tied_weights_and_a_mask_survive_the_folder(tmp_path: Path) -> None:
    (tmp_path / "tied.py").write_text(TIED)
    classifier = build_classifier(
        task="classification",
        labels=("a", "b"),
        architecture="tied.py:Net",
        module_roots=(str(tmp_path),),
    )
    save_classifier(classifier, tmp_path / "saved")
    source = ModelSource(name="tied", folder=str(tmp_path / "saved"), digest="0" * 64)
    again = open_model(source)
    assert isinstance(again, Classifier)
    x_B = torch.tensor([1.0, -2.0])
    assert torch.equal(again.logits((x_B,)), classifier.logits((x_B,)))
    with torch.no_grad():
        classifier.module.get_parameter("inner.bias").fill_(torch.nan)
    save_classifier(classifier, tmp_path / "saved")
    with pytest.raises(InvalidCheckpointError, match=r"'inner\.bias' holds values"):
        open_model(source)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("complex", "torch.complex64"), ("sparse", "not dense"), ("deep", "9 dimensions")],
)
def test_a_buffer_that_no_model_file_holds_is_refused_before_training(
    root: Path, kind: str, words: str
) -> None:
    (root / "unstorable.py").write_text(UNSTORABLE, encoding="utf-8")
    with pytest.raises(InvalidValueError, match=f"'kernel' .*{words}") as refusal:
        build(root, "unstorable.py:Net", kind=kind)
    assert refusal.value.param == "model.architecture"
    build(root, "unstorable.py:Net", kind=f"own {kind}")


def test_a_buffer_of_another_precision_is_saved(root: Path, tmp_path: Path) -> None:
    (root / "unstorable.py").write_text(UNSTORABLE, encoding="utf-8")
    classifier = build(root, "unstorable.py:Net", kind="half")
    save_classifier(classifier, tmp_path / "saved")
    source = ModelSource(name="m", folder=str(tmp_path / "saved"), digest="0" * 64)
    assert isinstance(open_model(source), Classifier)
