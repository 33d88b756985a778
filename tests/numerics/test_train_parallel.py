"""A run by two processes learns what one process learns, and each goes on from the other."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from purvey.contracts.jobs import InputDataset, JobSpec
from purvey.contracts.model import ModelSource
from purvey.contracts.recipe import parse_recipe
from purvey.errors import DivergedError, InvalidValueError
from purvey.train.checkpoint import MANIFEST, read_checkpoint
from purvey.train.state import RunState
from purvey.worker import train
from purvey.worker.job_link import JobInterrupted
from tests.numerics.divided_tasks import TASKS
from tests.numerics.second_rank import Pair, paired
from tests.numerics.test_train_resume import (
    ADAMW,
    SGD,
    Jobs,
    Link,
    classifier_recipe,
    language_recipe,
    sentences,
    sha256,
)

FACTOR = 10.0
"""Two ranks may differ from one process by so many times what it differs from itself.

In float32 a sum depends on the order of its terms. Ranks add the terms of a gradient in another
order, and so does one process that computes its batch in portions: what that one's losses move
by is what the order is worth in this run, and the factor covers that there are other orders.
"""
ROUNDING = 4 * torch.finfo(torch.float32).eps
"""The least that is allowed: portions may happen to agree with the whole, bit for bit."""


class Told(Link):
    """Keeps the losses of every evaluation."""

    def __init__(self, *, stop_at: int | None = None) -> None:
        super().__init__(stop_at=stop_at)
        self.losses: list[float] = []

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        super().metrics(message, data)
        if "valid_loss" in data:
            self.losses += [data["train_loss"], data["valid_loss"]]


class Runs(Jobs):
    """Runs recipes on one process or on two."""

    def __init__(self, root: Path, pair: Pair) -> None:
        super().__init__(root)
        self._pair = pair

    def spec(
        self,
        recipe: dict[str, Any],
        dataset: InputDataset,
        *,
        work: Path | None = None,
        resume_from: str | None = None,
        module_root: Path | None = None,
        base: ModelSource | None = None,
    ) -> JobSpec:
        return JobSpec(
            job_id="job_test",
            kind="training",
            attempt=1,
            fence=1,
            recipe=parse_recipe(recipe).model_dump(mode="json"),
            dataset=dataset,
            base=base,
            work_dir=str(work or self.folder()),
            output_dir=str(self.folder()),
            resume_from=resume_from,
            module_roots=(str(module_root),) if module_root is not None else (),
        )

    def on_one(
        self, recipe: dict[str, Any], dataset: InputDataset, **more: Any
    ) -> tuple[Told, Path]:
        link, spec = Told(), self.spec(recipe, dataset, **more)
        train.run(spec, link)
        return link, Path(spec.output_dir)

    def on_two(
        self, strategy: str, recipe: dict[str, Any], dataset: InputDataset, **more: Any
    ) -> tuple[Told, Path]:
        link, spec = Told(), self.spec(divided(recipe, strategy), dataset, **more)
        self._pair.run(spec, link)
        return link, Path(spec.output_dir)

    def paused(
        self,
        recipe: dict[str, Any],
        dataset: InputDataset,
        *,
        work: Path,
        stop_at: int,
        resume_from: str | None = None,
    ) -> str:
        """Pause a run after so many steps, on one process or on two; return its checkpoint."""
        link = Told(stop_at=stop_at)
        spec = self.spec(recipe, dataset, work=work, resume_from=resume_from)
        run = self._pair.run if "parallel" in recipe else train.run
        with pytest.raises(JobInterrupted, match="pause"):
            run(spec, link)
        return link.checkpoints[-1].folder


def divided(recipe: dict[str, Any], strategy: str) -> dict[str, Any]:
    return recipe | {"parallel": {"strategy": strategy, "ranks": 2}}


def in_portions(recipe: dict[str, Any], *, of: int = 2) -> dict[str, Any]:
    return recipe | {"train": recipe["train"] | {"micro_batch_size": of}}


def assert_close(found: list[float], one: list[float], portions: list[float]) -> None:
    """Compare losses with what their order of summation is worth."""
    own = max(abs(a - b) for a, b in zip(one, portions, strict=True))
    bound = FACTOR * own + ROUNDING * max(map(abs, one))
    assert bound < 1e-4, "the run does not tell an error from rounding"
    differences = [abs(a - b) for a, b in zip(found, one, strict=True)]
    assert len(one) >= 4
    assert max(differences) <= bound, (differences, bound)


def largest_difference(a: Path, b: Path) -> float:
    left, right = (
        {
            f"{file.name} {name}": tensor
            for file in files
            for name, tensor in load_file(file).items()
        }
        for files in (sorted(folder.glob("*.safetensors")) for folder in (a, b))
    )
    assert left.keys() == right.keys()
    return max(float((left[n].double() - right[n].double()).abs().max()) for n in left)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with paired(tmp_path_factory.mktemp("pair")) as made:
        yield made


@pytest.fixture
def runs(tmp_path: Path, pair: Pair) -> Runs:
    return Runs(tmp_path, pair)


def language(optimizer: dict[str, Any] = SGD, **loop: Any) -> dict[str, Any]:
    recipe = language_recipe(optimizer)
    recipe["model"]["hyperparameters"] |= {"num_kv_heads": 2, "mlp_size": 32}
    recipe["train"] |= {"epochs": 1, "batch_size": 5, "evals_per_epoch": 2, **loop}
    return recipe


def classifier() -> dict[str, Any]:
    recipe = classifier_recipe(SGD)
    recipe["model"]["hyperparameters"] |= {"dropout": 0.0}
    return recipe


LARGER = pytest.mark.train
PLAIN: dict[str, Any] = {}
PORTIONS = {"micro_batch_size": 2, "ema_decay": 0.9, "recompute_activations": True}


@pytest.mark.parametrize(
    ("strategy", "loop"),
    [
        ("ddp", PLAIN),
        ("fsdp", PLAIN),
        ("tensor", PLAIN),
        ("fsdp", PORTIONS),
        pytest.param("ddp", PORTIONS, marks=LARGER),
        pytest.param("tensor", PORTIONS, marks=LARGER),
    ],
    ids=lambda value: value if isinstance(value, str) else "portions" if value else "plain",
)
def test_a_language_model_learns_the_same_on_two(
    runs: Runs, strategy: str, loop: dict[str, Any]
) -> None:
    recipe, dataset = language(**loop), runs.dataset("rows.csv", sentences())
    one, weights = runs.on_one(recipe, dataset)
    portions, other = runs.on_one(in_portions(recipe, of=1 if loop else 2), dataset)
    two, divided_weights = runs.on_two(strategy, recipe, dataset)
    assert two.steps[-1] == one.steps[-1]
    assert_close(two.losses, one.losses, portions.losses)
    own = largest_difference(other, weights)
    assert largest_difference(divided_weights, weights) <= FACTOR * own + ROUNDING


def test_a_classifier_learns_the_same_on_two(runs: Runs) -> None:
    """Batches of nine leave shares of five and four; the last one is shorter still."""
    recipe, dataset = classifier(), runs.dataset("rows.csv", sentences())
    one, weights = runs.on_one(recipe, dataset)
    portions, other = runs.on_one(in_portions(recipe), dataset)
    two, divided_weights = runs.on_two("ddp", recipe, dataset)
    assert_close(two.losses, one.losses, portions.losses)
    own = largest_difference(other, weights)
    assert largest_difference(divided_weights, weights) <= FACTOR * own + ROUNDING


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("speech", "ddp"),
        ("tuned", "fsdp"),
        *(pytest.param(name, "ddp", marks=LARGER) for name in TASKS if name != "speech"),
    ],
)
def test_every_task_learns_the_same_on_two(runs: Runs, name: str, strategy: str) -> None:
    task = TASKS[name](runs.folder())
    given: dict[str, Any] = {"dataset": task.dataset, "base": task.base}
    one, weights = runs.on_one(task.recipe, **given)
    portions, other = runs.on_one(in_portions(task.recipe), **given)
    two, divided_weights = runs.on_two(strategy, task.recipe, **given)
    assert_close(two.losses, one.losses, portions.losses)
    own = largest_difference(other, weights)
    assert largest_difference(divided_weights, weights) <= FACTOR * own + ROUNDING


@pytest.mark.parametrize(
    "strategy",
    ["fsdp", pytest.param("ddp", marks=LARGER), pytest.param("tensor", marks=LARGER)],
)
def test_two_that_were_interrupted_end_with_the_same_bits(runs: Runs, strategy: str) -> None:
    recipe, dataset = divided(language(ADAMW), strategy), runs.dataset("rows.csv", sentences())
    _, whole = runs.on_two(strategy, language(ADAMW), dataset)
    work = runs.folder()
    checkpoint = runs.paused(recipe, dataset, work=work, stop_at=5)
    _, resumed = runs.on_two(strategy, language(ADAMW), dataset, work=work, resume_from=checkpoint)
    assert sha256(resumed) == sha256(whole)


@pytest.mark.parametrize("strategy", ["fsdp", pytest.param("tensor", marks=LARGER)])
def test_any_number_of_ranks_goes_on_from_a_checkpoint(runs: Runs, strategy: str) -> None:
    """From two to one and from one to two, past an evaluation whose best weights are kept."""
    recipe, dataset = language(ema_decay=0.5), runs.dataset("rows.csv", sentences())
    one, weights = runs.on_one(recipe, dataset)
    portions, other = runs.on_one(in_portions(recipe), dataset)
    stop_at = one.steps[-1] // 2 + 1
    own = largest_difference(other, weights)

    work = runs.folder()
    of_two = runs.paused(divided(recipe, strategy), dataset, work=work, stop_at=stop_at)
    joined, joined_weights = runs.on_one(recipe, dataset, work=work, resume_from=of_two)
    work = runs.folder()
    of_one = runs.paused(recipe, dataset, work=work, stop_at=stop_at)
    split, split_weights = runs.on_two(strategy, recipe, dataset, work=work, resume_from=of_one)

    assert shapes(of_two) == shapes(of_one)
    num_left = len(joined.losses)
    assert 0 < num_left < len(one.losses)
    assert len(split.losses) == num_left
    bound = FACTOR * max(
        abs(a - b) for a, b in zip(one.losses, portions.losses, strict=True)
    ) + ROUNDING * max(one.losses)
    for resumed in (joined, split):
        gaps = [abs(a - b) for a, b in zip(resumed.losses, one.losses[-num_left:], strict=True)]
        assert max(gaps) <= bound
    for folder in (joined_weights, split_weights):
        assert largest_difference(folder, weights) <= FACTOR * own + ROUNDING


def content(checkpoint: str) -> tuple[RunState, dict[str, dict[str, Tensor]]]:
    """Return what a checkpoint knows, its tensors whole."""
    folder = Path(checkpoint)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    found = read_checkpoint(folder, run_digest=manifest["run_digest"])
    state = msgspec.structs.replace(found.state, compute_s=0.0)
    return state, {name: dict(part) for name, part in found.parts.items()}


def shapes(checkpoint: str) -> dict[str, dict[str, tuple[int, ...]]]:
    _, parts = content(checkpoint)
    assert parts.keys() == {"model", "optimizer", "best", "average"}
    return {
        part: {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for part, tensors in parts.items()
    }


def test_a_checkpoint_keeps_its_bits_from_strategy_to_strategy(runs: Runs) -> None:
    """Weights, their mean, the best and the optimizer's state; each run pauses before a step."""
    recipe, dataset = language(ADAMW, ema_decay=0.5), runs.dataset("rows.csv", sentences())
    steps = runs.on_one(recipe, dataset)[0].steps[-1]
    first = runs.paused(
        divided(recipe, "fsdp"), dataset, work=runs.folder(), stop_at=steps // 2 + 1
    )
    state, parts = content(first)
    assert shapes(first)
    assert state.best is not None
    assert len(list(Path(first).glob("model-?-of-2.safetensors"))) == 2
    last = first
    for strategy in ("tensor", "none", "fsdp"):
        again = recipe if strategy == "none" else divided(recipe, strategy)
        last = runs.paused(again, dataset, work=runs.folder(), stop_at=0, resume_from=last)
        found_state, found = content(last)
        assert found_state == state
        assert found.keys() == parts.keys()
        for part, tensors in parts.items():
            assert found[part].keys() == tensors.keys()
            for name, tensor in tensors.items():
                assert torch.equal(found[part][name], tensor), (strategy, part, name)


MODULE = """
import torch.distributed as dist
from torch import nn
import purvey.module as pm

@pm.model(task="text-classification", input=pm.Text(max_bytes=16))
class Net(nn.Module):
    def __init__(self, *, num_classes: int, has_batch_norm: bool = False) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(257, 4), nn.Linear(4, num_classes)
        self.norm = nn.BatchNorm1d(4) if has_batch_norm else nn.Identity()
        self.spare = nn.Linear(2, 2)
        self.steps = 0

    def forward(self, text_BT):
        logits_BL = self.head(self.norm(self.table(text_BT).mean(1)))
        self.steps += self.training
        if self.steps == 3 and dist.is_initialized() and dist.get_rank() == 1:
            return logits_BL * float("nan")
        return logits_BL
"""


def own_module(runs: Runs, **hyperparameters: Any) -> tuple[dict[str, Any], Path]:
    root = runs.folder()
    (root / "net.py").write_text(MODULE)
    model = {"architecture": "net.py:Net", "hyperparameters": hyperparameters}
    return {"task": "text-classification", "model": model, "train": {"batch_size": 8}}, root


def test_a_loss_that_is_not_finite_on_one_rank_stops_all(runs: Runs) -> None:
    """The other rank's numbers are fine, and a weight that no row uses is no reason to wait."""
    recipe, root = own_module(runs)
    with pytest.raises(DivergedError, match="the loss is nan at step 2"):
        runs.on_two("ddp", recipe, runs.dataset("rows.csv", sentences()), module_root=root)


def test_statistics_over_a_batch_are_refused(runs: Runs) -> None:
    recipe, root = own_module(runs, has_batch_norm=True)
    with pytest.raises(InvalidValueError, match="'norm' learns: it normalises over the rows"):
        runs.on_two("ddp", recipe, runs.dataset("rows.csv", sentences()), module_root=root)


def test_an_encoder_learns_the_same_on_two(runs: Runs) -> None:
    """A row is told apart from those of the other rank, and of several partners both know one."""
    recipe = {
        "task": "embedding",
        "model": {
            "architecture": "encoder",
            "hyperparameters": {"hidden_size": 16, "num_layers": 1, "dropout": 0.0},
        },
        "tokenizer": {"vocabulary_size": 300},
        "optimizer": SGD,
        "train": {"epochs": 2, "batch_size": 9, "sequence_tokens": 16, "evals_per_epoch": 2},
    }
    dataset = runs.dataset("rows.csv", sentences())
    one, weights = runs.on_one(recipe, dataset)
    portions, other = runs.on_one(in_portions(recipe), dataset)
    two, divided_weights = runs.on_two("ddp", in_portions(recipe, of=3), dataset)
    assert_close(two.losses, one.losses, portions.losses)
    own = largest_difference(other, weights)
    assert largest_difference(divided_weights, weights) <= FACTOR * own + ROUNDING
