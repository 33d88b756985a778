"""A run that was interrupted ends with the very bits of one that was not."""

import hashlib
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest

from purvey.contracts.data import DatasetConfig
from purvey.contracts.deployment import Device
from purvey.contracts.jobs import CheckpointSaved, InputDataset, InputFile, JobSpec
from purvey.contracts.model import ModelSource
from purvey.contracts.recipe import parse_recipe
from purvey.data.build import build_dataset
from purvey.errors import IntegrityError
from purvey.worker import train
from purvey.worker.job_link import JobInterrupted

Reason = Literal["pause", "cancel", "hand_back"]


class Link:
    """Hears a request to stop at the poll of that number; keeps what it is told."""

    def __init__(self, *, stop_at: int | None = None, reason: Reason = "pause") -> None:
        self._polls, self._stop_at, self._reason = 0, stop_at, reason
        self.checkpoints: list[CheckpointSaved] = []
        self.steps: list[int] = []
        self.events: list[str] = []

    @property
    def stop_requested(self) -> Reason | None:
        self._polls += 1
        return self._reason if self._stop_at is not None and self._polls > self._stop_at else None

    def event(self, message: str, *, level: str = "info", **data: object) -> None:
        self.events.append(message)

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        self.steps.append(data["step"])

    def checkpoint(self, saved: CheckpointSaved) -> None:
        self.checkpoints.append(saved)


class Jobs:
    """Runs recipes in folders of their own."""

    def __init__(self, root: Path) -> None:
        self._root, self._count = root, 0

    def folder(self) -> Path:
        self._count += 1
        folder = self._root / str(self._count)
        folder.mkdir()
        return folder

    def dataset(self, name: str, text: str) -> InputDataset:
        source = self.folder() / name
        source.write_text(text, encoding="utf-8")
        sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
        file = InputFile(
            role="source", path=str(source), name=name, sha256=sha256, num_bytes=len(text)
        )
        folder = self.folder()
        return InputDataset(
            folder=str(folder), manifest=build_dataset([file], DatasetConfig(), folder)
        )

    def run(
        self,
        recipe: dict[str, Any],
        dataset: InputDataset,
        *,
        link: Link,
        work: Path,
        resume_from: str | None = None,
        base: ModelSource | None = None,
        module_root: Path | None = None,
        num_threads: int = 1,
        device: Device = "cpu",
        failpoints: str = "",
    ) -> Path:
        output = self.folder()
        spec = JobSpec(
            job_id="job_test",
            kind="training",
            attempt=1,
            fence=1,
            recipe=parse_recipe(recipe).model_dump(mode="json"),
            dataset=dataset,
            base=base,
            work_dir=str(work),
            output_dir=str(output),
            resume_from=resume_from,
            module_roots=(str(module_root),) if module_root is not None else (),
            num_threads=num_threads,
            device=device,
            failpoints=failpoints,
        )
        train.run(spec, link)
        return output

    def interrupted(
        self, recipe: dict[str, Any], dataset: InputDataset, *, stops: list[int], **more: Any
    ) -> Path:
        """Run with a stop after each of those many steps, resuming each time."""
        work, resume_from = self.folder(), None
        for stop in stops:
            link = Link(stop_at=stop)
            with pytest.raises(JobInterrupted, match="pause"):
                self.run(recipe, dataset, link=link, work=work, resume_from=resume_from, **more)
            resume_from = link.checkpoints[-1].folder
        return self.run(recipe, dataset, link=Link(), work=work, resume_from=resume_from, **more)


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


def sentences() -> str:
    good, bad = ("fine", "lovely", "warm", "bright"), ("dull", "broken", "cold", "late")
    things = ("day", "tea", "train", "song", "room", "book", "lamp", "coat", "road", "soup")
    rows = [
        f"the {thing} was {word} and {other},{label}"
        for label, words in (("good", good), ("bad", bad))
        for thing in things
        for word, other in pairwise(words)
    ]
    return "text,label\n" + "\n".join(rows) + "\n"


def classifier_recipe(optimizer: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": "text-classification",
        "model": {
            "architecture": "text-ngrams",
            "hyperparameters": {"buckets": 512, "width": 8, "dropout": 0.4},
        },
        "optimizer": optimizer,
        "train": {
            "epochs": 3,
            "batch_size": 9,
            "evals_per_epoch": 2,
            "early_stopping": {"patience": 50},
        },
        "seed": 5,
    }


def language_recipe(optimizer: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": "text-generation",
        "model": {
            "architecture": "decoder",
            "hyperparameters": {"hidden_size": 16, "num_layers": 2, "num_heads": 2},
        },
        "tokenizer": {"vocabulary_size": 300},
        "optimizer": optimizer,
        "train": {"epochs": 2, "batch_size": 4, "sequence_tokens": 16},
        "seed": 5,
    }


MUON = {"name": "muon", "learning_rate": 0.01, "momentum": 0.95, "weight_decay": 0.1}
ADAMW = {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}
SGD = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def sha256(folder: Path, name: str = "model.safetensors") -> str:
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


@pytest.mark.row("CRA-23")
@pytest.mark.parametrize("optimizer", [ADAMW, SGD], ids=["adamw", "sgd"])
@pytest.mark.parametrize("recipe_of", [classifier_recipe, language_recipe])
def test_resumed_weights_are_bit_equal(
    jobs: Jobs,
    recipe_of: Callable[[dict[str, Any]], dict[str, Any]],
    optimizer: dict[str, Any],
) -> None:
    recipe, dataset = recipe_of(optimizer), jobs.dataset("rows.csv", sentences())
    whole = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    resumed = jobs.interrupted(recipe, dataset, stops=[1, 0, 4, 7])
    assert sha256(resumed) == sha256(whole)


EVERYTHING = {
    "muon, linear": {"optimizer": MUON, "schedule": {"name": "linear", "final_fraction": 0.0}},
    "portions, bf16": {"train": {"micro_batch_size": 3, "precision": "bf16"}},
    "mean, wsd": {"train": {"ema_decay": 0.9}, "schedule": {"name": "wsd"}},
    "frozen, smoothed": {"train": {"freeze": ["*norm*"], "label_smoothing": 0.1}},
}


@pytest.mark.row("CRA-23")
@pytest.mark.parametrize("more", EVERYTHING.values(), ids=EVERYTHING)
@pytest.mark.parametrize("recipe_of", [classifier_recipe, language_recipe])
def test_a_resumed_run_is_bit_equal_whatever_the_loop_does(
    jobs: Jobs,
    recipe_of: Callable[[dict[str, Any]], dict[str, Any]],
    more: dict[str, dict[str, Any]],
) -> None:
    plain, dataset = recipe_of(ADAMW), jobs.dataset("rows.csv", sentences())
    used = {name: values for name, values in more.items() if name != "train"}
    recipe = plain | used | {"train": plain["train"] | more.get("train", {})}
    if recipe_of is classifier_recipe:
        recipe["model"] = {"architecture": "net.py:Deep"}
        recipe["train"]["class_weights"] = "balanced"
    else:
        recipe["train"]["recompute_activations"] = True
    root = jobs.folder()
    (root / "net.py").write_text(DEEP)
    whole = jobs.run(recipe, dataset, link=Link(), work=jobs.folder(), module_root=root)
    resumed = jobs.interrupted(recipe, dataset, stops=[1, 0, 4], module_root=root)
    assert sha256(resumed) == sha256(whole)


def final_state(link: Link) -> dict[str, Any]:
    """Return hashes of the last checkpoint's tensors, and its counts without its times."""
    folder = Path(link.checkpoints[-1].folder)
    state: dict[str, Any] = json.loads((folder / "state.json").read_bytes())
    assert state["is_finished"]
    tensors = {path.name: sha256(folder, path.name) for path in folder.glob("*.safetensors")}
    return state | tensors | {"compute_s": None}


@pytest.mark.row("CRA-23")
@pytest.mark.parametrize("recipe_of", [classifier_recipe, language_recipe])
def test_a_stop_at_any_step_changes_nothing(
    jobs: Jobs, recipe_of: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """In warm-up, inside an epoch, at its first and last step: tensors and counts are equal."""
    recipe, dataset = recipe_of(ADAMW), jobs.dataset("rows.csv", sentences())
    recipe["schedule"] = {"warmup_fraction": 0.4}
    recipe["train"] |= {"epochs": 2, "batch_size": 12}
    recipe["test"] = {"bootstrap_samples": 100}
    whole = Link()
    jobs.run(recipe, dataset, link=whole, work=jobs.folder())
    total = whole.steps[-1]
    assert total >= 6
    border = total // 2
    for stop in (0, 1, border - 1, border, border + 1, total - 1):
        first, second, work = Link(stop_at=stop), Link(), jobs.folder()
        with pytest.raises(JobInterrupted):
            jobs.run(recipe, dataset, link=first, work=work)
        [saved] = first.checkpoints
        assert saved.step == stop
        jobs.run(recipe, dataset, link=second, work=work, resume_from=saved.folder)
        assert final_state(second) == final_state(whole), stop


def test_the_seed_decides_the_weights(jobs: Jobs) -> None:
    dataset = jobs.dataset("rows.csv", sentences())
    recipe = classifier_recipe(ADAMW)
    first = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    again = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    other = jobs.run(recipe | {"seed": 6}, dataset, link=Link(), work=jobs.folder())
    assert sha256(first) == sha256(again) != sha256(other)


@pytest.mark.row("CRA-23")
def test_a_resumed_adapter_is_bit_equal(jobs: Jobs) -> None:
    dataset = jobs.dataset("rows.csv", sentences())
    folder = jobs.run(language_recipe(ADAMW), dataset, link=Link(), work=jobs.folder())
    base = ModelSource(name="base", folder=str(folder), digest="0" * 64)
    recipe: dict[str, Any] = {
        "task": "text-generation",
        "model": {"base": "base"},
        "lora": {"rank": 2, "dropout": 0.2},
        "train": {"method": "lora", "batch_size": 4, "sequence_tokens": 16, "max_steps": 12},
    }
    whole = jobs.run(recipe, dataset, link=Link(), work=jobs.folder(), base=base)
    resumed = jobs.interrupted(recipe, dataset, stops=[5, 2], base=base)
    name = "adapter_model.safetensors"
    assert sha256(resumed, name) == sha256(whole, name)


def test_cancelling_writes_no_checkpoint(jobs: Jobs) -> None:
    dataset = jobs.dataset("rows.csv", sentences())
    link = Link(stop_at=3, reason="cancel")
    with pytest.raises(JobInterrupted, match="cancel"):
        jobs.run(classifier_recipe(SGD), dataset, link=link, work=jobs.folder())
    assert link.checkpoints == []


def test_a_foreign_checkpoint_is_refused(jobs: Jobs) -> None:
    dataset, work = jobs.dataset("rows.csv", sentences()), jobs.folder()
    link = Link(stop_at=3)
    with pytest.raises(JobInterrupted):
        jobs.run(classifier_recipe(SGD), dataset, link=link, work=work)
    with pytest.raises(IntegrityError, match="another recipe or dataset"):
        jobs.run(
            classifier_recipe(ADAMW),
            dataset,
            link=Link(),
            work=work,
            resume_from=link.checkpoints[0].folder,
        )


MODULE = """
from torch import nn
import purvey.module as pm

@pm.model(task="text-classification", input=pm.Text(max_bytes=16))
class Net(nn.Module):
    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(257, 4), nn.Linear(4, num_classes)

    def forward(self, text_BT):
        return self.head(self.table(text_BT).mean(1))
"""


DEEP = """
from torch import nn
import purvey.module as pm

@pm.model(task="text-classification", input=pm.Text(max_bytes=16))
class Deep(nn.Module):
    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.table, self.hidden = nn.Embedding(257, 4), nn.Linear(4, 6)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(6, num_classes)
        self.norm = nn.LayerNorm(4)

    def forward(self, text_BT):
        x = self.norm(self.table(text_BT).mean(1))
        return self.head(self.drop(self.hidden(x).relu()))
"""


def test_a_checkpoint_of_other_code_is_refused(jobs: Jobs) -> None:
    dataset, root = jobs.dataset("rows.csv", sentences()), jobs.folder()
    recipe = {"task": "text-classification", "model": {"architecture": "net.py:Net"}}
    (root / "net.py").write_text(MODULE)
    link, work = Link(stop_at=2), jobs.folder()
    with pytest.raises(JobInterrupted):
        jobs.run(recipe, dataset, link=link, work=work, module_root=root)
    (root / "net.py").write_text(MODULE.replace("mean(1)", "amax(1)"))
    resume_from = link.checkpoints[-1].folder
    with pytest.raises(IntegrityError, match="another recipe or dataset"):
        jobs.run(recipe, dataset, link=Link(), work=work, resume_from=resume_from, module_root=root)


@pytest.mark.row("CRA-23")
def test_a_finished_run_resumes_without_training_further(jobs: Jobs) -> None:
    dataset, work = jobs.dataset("rows.csv", sentences()), jobs.folder()
    first = Link()
    whole = jobs.run(classifier_recipe(ADAMW), dataset, link=first, work=work)
    second = Link()
    again = jobs.run(
        classifier_recipe(ADAMW),
        dataset,
        link=second,
        work=work,
        resume_from=first.checkpoints[-1].folder,
    )
    assert second.steps == []
    assert sha256(again) == sha256(whole)
