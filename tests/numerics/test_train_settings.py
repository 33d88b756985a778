"""Every setting of the loop reaches the weights of a job, and those that must not, do not."""

from typing import Any

import pytest

from purvey.contracts.jobs import InputDataset
from tests.numerics.test_train_resume import (
    ADAMW,
    MUON,
    Jobs,
    Link,
    classifier_recipe,
    language_recipe,
    sentences,
    sha256,
)

LANGUAGE: dict[str, dict[str, dict[str, Any]]] = {
    "muon": {"optimizer": MUON},
    "linear": {"schedule": {"name": "linear"}},
    "wsd": {"schedule": {"name": "wsd"}},
    "portions": {"train": {"micro_batch_size": 3}},
    "bf16": {"train": {"precision": "bf16"}},
    "mean": {"train": {"ema_decay": 0.5}},
    "frozen": {"train": {"freeze": ["norm.*"]}},
    "smoothed": {"train": {"label_smoothing": 0.2}},
}
CLASSIFIER: dict[str, dict[str, dict[str, Any]]] = {
    "balanced": {"train": {"class_weights": "balanced"}},
    "smoothed": {"train": {"label_smoothing": 0.2}},
    "mean": {"train": {"ema_decay": 0.5}},
    "frozen": {"train": {"freeze": ["*bias"]}},
}


def with_more(recipe: dict[str, Any], more: dict[str, dict[str, Any]]) -> dict[str, Any]:
    train = recipe["train"] | {"epochs": 1} | more.get("train", {})
    return recipe | more | {"train": train}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def dataset(jobs: Jobs) -> InputDataset:
    lines = sentences().splitlines(keepends=True)
    return jobs.dataset("rows.csv", "".join(lines[:40]))  # three good ones for each bad one


def digest(jobs: Jobs, dataset: InputDataset, recipe: dict[str, Any]) -> str:
    return sha256(jobs.run(recipe, dataset, link=Link(), work=jobs.folder()))


@pytest.fixture(scope="module")
def plain(jobs: Jobs, dataset: InputDataset) -> dict[str, str]:
    language = with_more(language_recipe(ADAMW), {})
    classifier = with_more(classifier_recipe(ADAMW), {})
    return {
        "language": digest(jobs, dataset, language),
        "classifier": digest(jobs, dataset, classifier),
    }


@pytest.mark.parametrize("more", LANGUAGE.values(), ids=LANGUAGE)
def test_a_language_model_feels_it(
    jobs: Jobs, dataset: InputDataset, plain: dict[str, str], more: dict[str, dict[str, Any]]
) -> None:
    recipe = with_more(language_recipe(ADAMW), more)
    assert digest(jobs, dataset, recipe) != plain["language"]


@pytest.mark.parametrize("more", CLASSIFIER.values(), ids=CLASSIFIER)
def test_a_classifier_feels_it(
    jobs: Jobs, dataset: InputDataset, plain: dict[str, str], more: dict[str, dict[str, Any]]
) -> None:
    recipe = with_more(classifier_recipe(ADAMW), more)
    assert digest(jobs, dataset, recipe) != plain["classifier"]


@pytest.mark.parametrize("is_native", [True, False])
def test_bf16_without_products_of_its_own_is_told(
    jobs: Jobs, dataset: InputDataset, monkeypatch: pytest.MonkeyPatch, is_native: bool
) -> None:
    monkeypatch.setattr("purvey.worker.training.run.has_native_bf16", lambda: is_native)
    link = Link()
    train = {"precision": "bf16", "max_steps": 1}
    recipe = with_more(language_recipe(ADAMW), {"train": train})
    jobs.run(recipe, dataset, link=link, work=jobs.folder())
    assert any("does not multiply bfloat16" in event for event in link.events) is not is_native


def test_recomputing_changes_no_bit(
    jobs: Jobs, dataset: InputDataset, plain: dict[str, str]
) -> None:
    recipe = with_more(language_recipe(ADAMW), {"train": {"recompute_activations": True}})
    assert digest(jobs, dataset, recipe) == plain["language"]
