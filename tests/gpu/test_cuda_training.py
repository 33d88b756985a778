"""Training on a CUDA device reaches what the processor reaches: `make gpu` where there is one."""

from pathlib import Path
from typing import Any

import pytest

from purvey.contracts.jobs import InputDataset
from purvey.worker.job_link import JobInterrupted
from tests.numerics.test_train_resume import (
    ADAMW,
    MUON,
    SGD,
    Jobs,
    Link,
    classifier_recipe,
    language_recipe,
    sentences,
)

pytestmark = pytest.mark.gpu
OPTIMIZERS = {"adamw": ADAMW, "muon": MUON, "sgd": SGD}


class Listener(Link):
    """Keeps the validation losses too."""

    def __init__(self, *, stop_at: int | None = None) -> None:
        super().__init__(stop_at=stop_at)
        self.losses: list[float] = []

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        super().metrics(message, data)
        if "valid_loss" in data:
            self.losses.append(data["valid_loss"])


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


@pytest.fixture
def dataset(jobs: Jobs) -> InputDataset:
    return jobs.dataset("rows.csv", sentences())


def _losses(jobs: Jobs, dataset: InputDataset, recipe: dict[str, Any], **more: Any) -> list[float]:
    link = Listener()
    jobs.run(recipe, dataset, link=link, work=jobs.folder(), **more)
    is_there = any(event.startswith("Training on ") for event in link.events)
    assert is_there == (more.get("device") == "cuda")
    return link.losses


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_language_model_learns_what_it_does_on_the_processor(
    jobs: Jobs, dataset: InputDataset, optimizer: dict[str, Any]
) -> None:
    recipe = language_recipe(optimizer)
    here, there = (_losses(jobs, dataset, recipe, device=kind) for kind in ("cpu", "cuda"))
    assert there == pytest.approx(here, rel=2e-3)


@pytest.mark.parametrize("optimizer", [ADAMW, SGD], ids=["adamw", "sgd"])
def test_a_network_that_is_fed_learns_what_it_does_on_the_processor(
    jobs: Jobs, dataset: InputDataset, optimizer: dict[str, Any]
) -> None:
    recipe = classifier_recipe(optimizer)
    recipe["model"]["hyperparameters"]["dropout"] = 0.0  # devices draw other numbers
    here, there = (_losses(jobs, dataset, recipe, device=kind) for kind in ("cpu", "cuda"))
    assert there == pytest.approx(here, rel=2e-3)


def test_a_checkpoint_of_a_device_goes_on_on_the_processor(
    jobs: Jobs, dataset: InputDataset
) -> None:
    recipe, work = language_recipe(ADAMW), jobs.folder()
    whole = _losses(jobs, dataset, recipe, device="cuda")
    first, rest = Listener(stop_at=5), Listener()
    with pytest.raises(JobInterrupted):
        jobs.run(recipe, dataset, link=first, work=work, device="cuda")
    jobs.run(
        recipe,
        dataset,
        link=rest,
        work=work,
        device="cpu",
        resume_from=first.checkpoints[-1].folder,
    )
    assert rest.losses[-1] == pytest.approx(whole[-1], rel=2e-3)


def test_bfloat16_learns_too(jobs: Jobs, dataset: InputDataset) -> None:
    recipe = language_recipe(ADAMW)
    full = _losses(jobs, dataset, recipe, device="cuda")
    recipe["train"]["precision"] = "bf16"
    half = _losses(jobs, dataset, recipe, device="cuda")
    assert half[-1] == pytest.approx(full[-1], rel=0.05)
