"""What a run would take is said before it runs, for every task, and is near what it takes."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from purvey.contracts.data import ColumnKind
from purvey.contracts.defaults import with_recipe_defaults
from purvey.contracts.estimating.needs import Estimated
from purvey.contracts.jobs import InputDataset, InputFile, JobSpec
from purvey.contracts.model import ModelSource
from purvey.contracts.recipe import parse_recipe
from purvey.contracts.sizes import DecoderSizes
from purvey.errors import InvalidValueError
from purvey.models.folder.manifest import read_manifest
from purvey.models.language import save_language_model
from purvey.train.schedule import span_of
from purvey.worker import job, train
from purvey.worker.estimating import estimate, rehearsal
from purvey.worker.training import placing
from tests.numerics.mixtures import Link, Runs, price_rows, xor_rows
from tests.numerics.recordings import morse_dataset, speech_recipe
from tests.numerics.shapes import language_model

NOTES: dict[str, ColumnKind] = {"note": "text", "answer": "label"}
PHOTOS: dict[str, ColumnKind] = {"photo": "image", "answer": "label"}
PRICED: dict[str, ColumnKind] = {
    "photo": "image",
    "note": "text",
    "size": "number",
    "place": "category",
    "price": "score",
}
OWN_NET = """
import torch
from torch import nn
import purvey.module as pm

@pm.model(task="image-classification", input=pm.Image(height=16, width=16, channels=1))
class Net(nn.Module):
    def __init__(self, *, num_classes):
        super().__init__()
        self.head = nn.Linear(256, num_classes)

    def forward(self, x_BCHW):
        logits_BL = self.head(x_BCHW.flatten(1))
        assert sorted(logits_BL.flatten().tolist())
        return logits_BL
"""


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "_PATIENCE_S", 0.0)


def spec_of(
    runs: Runs, recipe: dict[str, Any], dataset: InputDataset | None, **more: Any
) -> JobSpec:
    return JobSpec(
        job_id="job_test",
        kind="estimate",
        attempt=1,
        fence=1,
        recipe=parse_recipe(with_recipe_defaults(recipe)).model_dump(mode="json"),
        dataset=dataset,
        work_dir=str(runs.folder()),
        output_dir=str(runs.folder()),
        **more,
    )


def estimated(
    runs: Runs, recipe: dict[str, Any], dataset: InputDataset | None, **more: Any
) -> Estimated:
    spec = spec_of(runs, recipe, dataset, **more)
    link: Any = Link()
    assert job.runner_of(spec) is estimate.run
    found = estimate.run(spec, link)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Estimated) == found
    assert not any(Path(spec.output_dir).iterdir())
    assert not any(Path(spec.work_dir).iterdir())
    return found


class Told(Link):
    """A link that keeps what the first line of a run says of its size."""

    def event(self, message: str, *, level: str = "info", **data: object) -> None:
        if "total_steps" in data:
            self.said = data


def dataset_and_recipe(task: str, runs: Runs) -> tuple[InputDataset, dict[str, Any]]:
    loop = {"train": {"epochs": 1, "batch_size": 8}, "test": {"bootstrap_samples": 100}}
    if task == "speech-recognition":
        return morse_dataset(runs.folder() / "morse", num_rows=30, num_words=1), speech_recipe()
    if task == "regression":
        return runs.dataset(price_rows(40), PRICED), {"task": task, **loop}
    if task == "text-generation":
        rows = [{"note": row["note"] * 10} for row in xor_rows(40)]
        shape = {"hidden_size": 64, "num_layers": 2}
        small = {"tokenizer": {"vocabulary_size": 300}, "model": {"hyperparameters": shape}}
        short = {"train": loop["train"] | {"sequence_tokens": 64, "max_steps": 4}}
        return runs.dataset(rows, {"note": "text"}), {"task": task, **loop, **small, **short}
    columns = {"text-classification": NOTES, "image-classification": PHOTOS}.get(task)
    both: dict[str, ColumnKind] = {"photo": "image", "note": "text", "answer": "label"}
    return runs.dataset(xor_rows(40), columns or both), {"task": task, **loop}


@pytest.mark.parametrize(
    "task",
    [
        "text-generation",
        "text-classification",
        "image-classification",
        "classification",
        "regression",
        "speech-recognition",
    ],
)
def test_every_task_is_followed_and_its_size_is_the_runs_own(task: str, runs: Runs) -> None:
    dataset, recipe = dataset_and_recipe(task, runs)
    found = estimated(runs, recipe, dataset)
    spec = msgspec.structs.replace(spec_of(runs, recipe, dataset), kind="training")
    link = Told()
    train.run(spec, link)
    said = {"parameters": found.trained_parameters, "total_steps": found.time.steps}
    assert {name: link.said[name] for name in said} == said
    told: Any = link.said["environment"]
    assert len(told["code_sha256"]) == 64
    assert {"purvey", "python", "torch", "numpy", "platform", "processor"} <= told.keys()
    assert told.items() <= read_manifest(Path(spec.output_dir)).lineage.items()
    assert found.parameters >= found.trained_parameters
    assert (found.memory.activations_bytes or 0) > 0
    assert found.time.is_measured
    assert 0 < found.time.low_s <= found.time.high_s
    written = sum(f.stat().st_size for f in Path(spec.output_dir).glob("*.safetensors"))
    assert found.disk.model_bytes == pytest.approx(written, rel=0.1, abs=8_192)
    kept = sum(f.stat().st_size for f in Path(spec.work_dir).rglob("*.safetensors"))
    assert kept <= found.disk.checkpoints_bytes * 1.05 + 20_000


def chat_file(path: Path, role: str, colours: list[str]) -> InputFile:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"what colour is the {colour} circle? {number}"},
                {"role": "assistant", "content": colour},
            ]
        }
        for number, colour in enumerate(colours)
    ]
    data = "\n".join(map(json.dumps, rows)).encode()
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return InputFile(role=role, path=str(path), name=path.name, sha256=sha256, num_bytes=len(data))


def test_fine_tuning_is_followed_from_its_files(runs: Runs) -> None:
    folder = runs.folder()
    save_language_model(folder / "base", language_model())
    base = ModelSource(name="base", folder=str(folder / "base"), digest="0" * 64)
    files = (
        chat_file(folder / "train.jsonl", "training", ["red", "blue"] * 50),
        chat_file(folder / "held.jsonl", "validation", ["red", "red", "yellow"] * 10),
    )
    recipe = {
        "task": "text-generation",
        "model": {"base": "base"},
        "train": {"method": "lora", "epochs": 3, "batch_size": 8, "sequence_tokens": 64},
    }
    found = estimated(runs, recipe, None, files=files, base=base)
    asked = parse_recipe(with_recipe_defaults(recipe)).train
    assert found.time.steps == span_of(asked, 100).total_steps, "of all rows, not of a sample"
    assert found.time.is_measured
    assert 0 < found.trained_parameters < found.parameters
    assert found.memory.gradients_bytes == 4 * found.trained_parameters
    assert (found.memory.activations_bytes or 0) > 0
    [told] = [note for note in found.notes if note.startswith("Leakage: ")]
    assert " of 30 rows of the validation file" in told


@pytest.mark.parametrize(
    ("task", "lost"), [("text-classification", ", no calibration."), ("regression", "checkpoint.")]
)
def test_what_is_lost_without_validation_is_noted(task: str, lost: str, runs: Runs) -> None:
    rows, columns = (price_rows(30), PRICED) if task == "regression" else (xor_rows(30), NOTES)
    _, recipe = dataset_and_recipe(task, runs)
    dataset = runs.dataset(rows, columns, splits={"validation": 0.0})
    [note] = [n for n in estimated(runs, recipe, dataset).notes if n.startswith("The validation")]
    assert note.startswith("The validation split is empty: no early stopping, no best checkpoint")
    assert note.endswith(lost)


def expected_and_measured(runs: Runs, shape: dict[str, Any], **loop: Any) -> tuple[int, int]:
    rows = [{"note": row["note"] * 20} for row in xor_rows(60)]
    dataset = runs.dataset(rows, {"note": "text"})
    recipe = {
        "task": "text-generation",
        "model": {"hyperparameters": shape},
        "tokenizer": {"vocabulary_size": 300},
        "train": {"sequence_tokens": 256, "max_steps": 1, **loop},
        "test": {"bootstrap_samples": 100},
    }
    ran = subprocess.run(
        [sys.executable, "-m", "tests.numerics.peak_of_run"],
        input=msgspec.msgpack.encode(spec_of(runs, recipe, dataset)),
        capture_output=True,
        check=True,
    )
    expected, measured = map(int, ran.stdout.split())
    return expected, measured


def test_memory_is_near_what_a_run_takes(runs: Runs) -> None:
    shape = {"hidden_size": 128, "num_layers": 2}
    expected, measured = expected_and_measured(runs, shape, batch_size=8)
    assert measured / 1.5 <= expected <= measured * 1.5


@pytest.mark.train
def test_so_it_is_where_activations_are_most_of_it(runs: Runs) -> None:
    shape = {"hidden_size": 256, "num_layers": 6}
    expected, measured = expected_and_measured(runs, shape, batch_size=32)
    assert measured > 1.5 * 2**30
    assert measured / 1.5 <= expected <= measured * 1.5


def test_a_network_that_could_never_fit_costs_nothing_to_say_so(runs: Runs) -> None:
    dataset, recipe = dataset_and_recipe("text-generation", runs)
    shape = {"hidden_size": 4_096, "num_layers": 4, "num_heads": 32}
    recipe |= {"model": {"hyperparameters": shape}, "optimizer": {"name": "adamw"}}
    found = estimated(runs, recipe, dataset)
    parameters = found.parameters
    assert parameters == pytest.approx(DecoderSizes.of(shape).num_parameters(300), rel=0.01)
    memory = found.memory
    assert memory.weights_bytes == pytest.approx(4 * parameters, rel=0.01)
    assert memory.gradients_bytes == 4 * parameters
    assert memory.optimizer_bytes == 8 * parameters
    assert found.disk.checkpoints_bytes == pytest.approx(3 * 16 * parameters, rel=0.01)


def test_the_rule_decides_what_is_remembered(runs: Runs) -> None:
    dataset, recipe = dataset_and_recipe("image-classification", runs)
    for times, momentum in ((0, 0.0), (1, 0.9)):
        rule = {"name": "sgd", "momentum": momentum, "learning_rate": 0.1}
        memory = estimated(runs, recipe | {"optimizer": rule}, dataset).memory
        assert memory.optimizer_bytes == times * memory.gradients_bytes


def test_of_a_module_that_needs_numbers_the_rest_is_said(runs: Runs) -> None:
    dataset, recipe = dataset_and_recipe("image-classification", runs)
    root = runs.folder()
    (root / "net.py").write_text(OWN_NET)
    recipe["model"] = {"architecture": "net.py:Net"}
    found = estimated(runs, recipe, dataset, module_roots=(str(root),))
    assert found.memory.activations_bytes is None
    assert found.parameters == 256 * 2 + 2
    assert found.time.is_measured
    assert any(note.startswith("Activations are not counted") for note in found.notes)


def test_what_the_run_would_be_refused_for_the_estimate_is_too(runs: Runs) -> None:
    dataset, recipe = dataset_and_recipe("image-classification", runs)
    recipe["model"] = {"architecture": "convnet", "hyperparameters": {"widht": 3}}
    with pytest.raises(InvalidValueError, match="widht"):
        estimated(runs, recipe, dataset)


def test_a_run_without_room_for_its_gradients_is_refused_with_the_arithmetic(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "free_memory", lambda: 2**20)
    dataset, recipe = dataset_and_recipe("text-generation", runs)
    spec = msgspec.structs.replace(spec_of(runs, recipe, dataset), kind="training")
    with pytest.raises(InvalidValueError, match=r"gradients .* \+ optimizer .* are free") as told:
        train.run(spec, Link())
    assert told.value.param == "recipe.model"
    assert not any(Path(spec.work_dir).iterdir())


def test_a_frozen_part_has_no_gradients(runs: Runs) -> None:
    dataset, recipe = dataset_and_recipe("text-generation", runs)
    recipe["train"] = recipe["train"] | {"freeze": ["layers.*"], "ema_decay": 0.9}
    found = estimated(runs, recipe, dataset)
    assert found.trained_parameters < found.parameters
    assert found.memory.gradients_bytes == 4 * found.trained_parameters


def test_recomputing_keeps_less(runs: Runs) -> None:
    dataset, recipe = dataset_and_recipe("text-generation", runs)
    kept = estimated(runs, recipe, dataset).memory.activations_bytes
    recipe["train"] = recipe["train"] | {"recompute_activations": True}
    less = estimated(runs, recipe, dataset).memory.activations_bytes
    assert kept is not None
    assert less is not None
    assert less < kept * 0.7
