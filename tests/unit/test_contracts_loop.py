"""Descent and the loop: what a rule, a shape or a task does not use is refused by name."""

from typing import Any

import pytest

from purvey.contracts.defaults import with_recipe_defaults
from purvey.contracts.recipe import parse_recipe
from purvey.errors import InvalidValueError

EVERYTHING: dict[str, dict[str, Any]] = {
    "optimizer": {"name": "muon", "momentum": 0.95, "betas": [0.9, 0.99]},
    "schedule": {"name": "wsd", "decay_fraction": 0.3, "final_fraction": 0.0},
    "train": {
        "batch_size": 8,
        "micro_batch_size": 3,
        "precision": "bf16",
        "recompute_activations": True,
        "ema_decay": 0.99,
        "freeze": ["embed_tokens.*", "layers.0.*"],
        "label_smoothing": 0.1,
    },
}


def test_everything_that_a_language_model_uses_is_taken_and_resolved() -> None:
    recipe = parse_recipe({"task": "text-generation", **EVERYTHING})
    assert recipe.train.freeze == ("embed_tokens.*", "layers.0.*")
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


def test_balanced_classes_are_for_classifiers() -> None:
    train = {"class_weights": "balanced", "label_smoothing": 0.1}
    recipe = parse_recipe({"task": "image-classification", "train": train})
    assert recipe.train.class_weights == "balanced"


@pytest.mark.parametrize(
    ("task", "values", "param", "words"),
    [
        ("text-generation", {"train": {"class_weights": "balanced"}}, "train.class_weights", "for"),
        ("regression", {"train": {"label_smoothing": 0.1}}, "train.label_smoothing", "no effect"),
        (
            "text-classification",
            {"train": {"recompute_activations": True}},
            "train.recompute_activations",
            "It is for text-generation",
        ),
        (
            "text-generation",
            {"train": {"batch_size": 4, "micro_batch_size": 5}},
            "train",
            "micro_batch_size 5 is more than the batch_size 4",
        ),
        ("text-generation", {"train": {"freeze": [""]}}, "train.freeze.0", "at least 1"),
        ("text-generation", {"train": {"ema_decay": 1.0}}, "train.ema_decay", "less than 1"),
        ("text-generation", {"train": {"precision": "fp16"}}, "train.precision", "bf16"),
        (
            "text-generation",
            {"optimizer": {"name": "adamw", "momentum": 0.5}},
            "optimizer",
            "momentum has no effect with optimizer.name 'adamw'",
        ),
        (
            "text-generation",
            {"optimizer": {"name": "sgd", "betas": [0.5, 0.5]}},
            "optimizer",
            "betas has no effect with optimizer.name 'sgd'",
        ),
        (
            "text-generation",
            {"schedule": {"decay_fraction": 0.5}},
            "schedule",
            "decay_fraction has no effect with schedule.name 'cosine'",
        ),
        (
            "text-generation",
            {"schedule": {"name": "constant", "final_fraction": 0.5}},
            "schedule",
            "final_fraction has no effect with schedule.name 'constant'",
        ),
        (
            "text-generation",
            {"schedule": {"name": "wsd", "warmup_fraction": 0.5, "decay_fraction": 0.6}},
            "schedule",
            "more than the whole run",
        ),
    ],
)
def test_what_has_no_effect_is_refused(
    task: str, values: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidValueError, match=words) as refusal:
        parse_recipe({"task": task, **values})
    assert refusal.value.param == f"recipe.{param}"


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("task", ["image-classification", "text-generation"])
def test_any_rule_takes_the_place_of_the_tasks_own(task: str, name: str) -> None:
    values = with_recipe_defaults({"task": task, "optimizer": {"name": name}})
    assert parse_recipe(values).optimizer.name == name
