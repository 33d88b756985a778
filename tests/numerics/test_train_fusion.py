"""Fusion learns what no input tells alone; a regression finds a score; both resume bit for bit."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from purvey.contracts.data import ColumnKind
from purvey.errors import InvalidValueError
from purvey.worker.job_link import JobInterrupted
from tests.numerics.mixtures import Link, Runs, price_rows, xor_rows

BOTH: dict[str, ColumnKind] = {"photo": "image", "note": "text", "answer": "label"}
PRICED: dict[str, ColumnKind] = {
    "photo": "image",
    "note": "text",
    "size": "number",
    "place": "category",
    "price": "score",
}
EVEN = {"validation": 0.15, "test": 0.25}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def recipe(how: str, *, task: str = "classification", **loop: Any) -> dict[str, Any]:
    return {
        "task": task,
        "model": {"architecture": "fusion", "hyperparameters": {"how": how, "width": 32}},
        "train": loop,
        "test": {"bootstrap_samples": 100},
        "seed": 2,
    }


def accuracy(runs: Runs, given: dict[str, Any], rows: list[Any], *names: str) -> float:
    columns: dict[str, ColumnKind] = {n: k for n, k in BOTH.items() if n in (*names, "answer")}
    dataset = runs.dataset(rows, columns, splits=EVEN, deduplicate=False)
    _, manifest = runs.run(given, dataset)
    found: float = manifest.report["accuracy"]["value"]
    return found


def test_the_label_is_found_in_the_mixture_and_in_neither_part(runs: Runs) -> None:
    rows = xor_rows(400, language="zh", size=12)
    given = recipe("product", epochs=12, batch_size=16, early_stopping=None)
    assert accuracy(runs, given, rows, "photo", "note") >= 0.95
    few = recipe("product", epochs=3, batch_size=16)
    assert accuracy(runs, few, rows, "photo") <= 0.7
    assert accuracy(runs, few, rows, "note") <= 0.7


@pytest.mark.train
@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("how", ["cross-attention", "concatenation", "product"])
def test_at_full_size_too(runs: Runs, how: str, language: str) -> None:
    rows = xor_rows(3_000, language=language, seed=1)
    given = recipe(how, epochs=10, early_stopping=None)  # nothing is seen for up to four epochs
    assert accuracy(runs, given, rows, "photo", "note") >= 0.95
    assert accuracy(runs, given, rows, "photo") <= 0.7
    assert accuracy(runs, given, rows, "note") <= 0.7


def test_a_score_of_four_inputs_is_found(runs: Runs) -> None:
    dataset = runs.dataset(price_rows(500), PRICED, splits=EVEN)
    given = recipe("concatenation", task="regression", epochs=12)
    link = Link()
    _, manifest = runs.run(given, dataset, link=link)
    report = manifest.report
    assert report["r2"]["value"] >= 0.9
    assert report["mae"]["high"] < report["baseline_mae"]["low"] / 2
    assert manifest.score is not None
    assert manifest.score.mean == pytest.approx(215, abs=3)
    assert manifest.labels == ()
    assert link.told[-1]["mae"] == pytest.approx(report["mae"]["value"], rel=0.5)
    assert [type(spec).__name__ for spec in manifest.inputs.values()] == [
        "ImageSpec",
        "TextSpec",
        "NumberSpec",
        "CategorySpec",
    ]


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.row("CRA-23")
@pytest.mark.parametrize(
    ("task", "how"), [("classification", "cross-attention"), ("regression", "concatenation")]
)
def test_resumed_weights_are_bit_equal(runs: Runs, task: str, how: str) -> None:
    if task == "regression":
        dataset = runs.dataset(price_rows(60), PRICED)
    else:
        dataset = runs.dataset(xor_rows(60), BOTH)
    given = recipe(how, task=task, epochs=2, batch_size=12, evals_per_epoch=2)
    given["augment"] = {"image": {"crop_pixels": 1}}
    whole, _ = runs.run(given, dataset)
    work, resume_from = runs.folder(), None
    for stop in (1, 0, 4):
        link = Link(stop_after=stop)
        with pytest.raises(JobInterrupted, match="pause"):
            runs.run(given, dataset, link=link, work=work, resume_from=resume_from)
        resume_from = link.checkpoints[-1].folder
    resumed, _ = runs.run(given, dataset, work=work, resume_from=resume_from)
    assert sha256(resumed) == sha256(whole)


def test_what_cannot_be_learned_is_refused_by_name(runs: Runs) -> None:
    flat = [row | {"price": 3.0} for row in price_rows(20)]
    huge = [row | {"size": 1e200} for row in price_rows(20)]
    for rows, said in ((flat, "has the score 3 in column 'price'"), (huge, "column 'size' holds")):
        with pytest.raises(InvalidValueError, match=said) as refusal:
            runs.run(recipe("concatenation", task="regression"), runs.dataset(rows, PRICED))
        assert refusal.value.param == "recipe.dataset"


MODULE = """
import torch
from torch import nn
import purvey.module as pm

@pm.model(
    task="regression",
    inputs={
        "place": pm.Category(values=("north", "south")),
        "size": pm.Number(std=2.0),
        "note": pm.Text(max_bytes=8),
    },
)
class Net(nn.Module):
    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.places, self.head = nn.Embedding(3, 4), nn.Linear(5, num_classes)

    def forward(self, place_B, size_B, note_BT):
        assert place_B.dtype == note_BT.dtype == torch.int64
        assert int(place_B.max()) == 2 and int(place_B.min()) == 0
        return self.head(torch.cat([self.places(place_B), size_B[:, None]], dim=1))
"""


def test_a_users_module_learns_a_score_of_several_inputs(runs: Runs) -> None:
    root = runs.folder()
    (root / "net.py").write_text(MODULE, encoding="utf-8")
    given: dict[str, Any] = {
        "task": "regression",
        "model": {"architecture": "net.py:Net"},
        "optimizer": {"name": "adamw", "learning_rate": 0.05},
        "train": {"epochs": 20, "batch_size": 64},
        "test": {"bootstrap_samples": 100},
    }
    dataset = runs.dataset(price_rows(400), PRICED, splits=EVEN)
    _, manifest = runs.run(given, dataset, module_root=root)
    # Size and place explain (75 + 66.7) of the variance; picture and note add 100 + 25.
    assert 0.35 <= manifest.report["r2"]["value"] <= 0.7
