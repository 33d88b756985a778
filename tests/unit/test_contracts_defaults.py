"""Defaults by task: the user's word wins, and what comes out is a valid recipe."""

from typing import Any

import pytest

from purvey.contracts.defaults import merged, recipe_defaults, with_recipe_defaults
from purvey.contracts.model import Task
from purvey.contracts.recipe import parse_recipe
from purvey.errors import InvalidValueError

TASKS: tuple[Task, ...] = (
    "text-generation",
    "text-classification",
    "image-classification",
    "classification",
)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", [{}, {"base": "some-model"}])
def test_every_task_has_defaults_that_parse(task: Task, model: dict[str, str]) -> None:
    recipe = parse_recipe(with_recipe_defaults({"task": task, "model": model}))
    assert recipe.task == task
    assert recipe.model.base == model.get("base")
    assert not (model and recipe.model.architecture)


def test_a_base_is_tuned_by_lora_unless_asked_in_full() -> None:
    lora = recipe_defaults("text-generation", has_base=True)
    full = recipe_defaults("text-generation", has_base=True, method="full")
    assert lora["train"]["method"] == "lora"
    asked: dict[str, Any] = {
        "task": "text-generation",
        "model": {"base": "x"},
        "train": {"method": "full"},
    }
    assert with_recipe_defaults(asked)["optimizer"] == full["optimizer"] != lora["optimizer"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_preference_is_learned_in_smaller_steps(method: str) -> None:
    asked: dict[str, Any] = {
        "task": "text-generation",
        "model": {"base": "x"},
        "train": {"method": method},
    }
    usual = parse_recipe(with_recipe_defaults(asked))
    asked["train"]["objective"] = "dpo"
    tuned = parse_recipe(with_recipe_defaults(asked))
    assert tuned.optimizer.learning_rate < usual.optimizer.learning_rate
    assert tuned.train.batch_size == usual.train.batch_size


def test_only_new_weights_are_drawn_by_a_scheme() -> None:
    new = with_recipe_defaults({"task": "image-classification"})
    tuned = with_recipe_defaults({"task": "image-classification", "model": {"base": "x"}})
    assert parse_recipe(new).init.scheme == "kaiming_normal"
    assert parse_recipe(tuned).init.scheme == "default"


def test_the_users_word_wins_key_by_key() -> None:
    values = with_recipe_defaults(
        {
            "task": "text-classification",
            "train": {"epochs": 1, "early_stopping": None},
            "optimizer": {"learning_rate": 0.5},
        }
    )
    assert values["train"]["epochs"] == 1
    assert values["train"]["early_stopping"] is None
    assert (
        values["train"]["batch_size"]
        == recipe_defaults("text-classification", has_base=False)["train"]["batch_size"]
    )
    assert values["optimizer"] == {"name": "adamw", "learning_rate": 0.5}


def test_another_optimizer_brings_its_own_rate() -> None:
    values = with_recipe_defaults({"task": "image-classification", "optimizer": {"name": "adamw"}})
    recipe = parse_recipe(values)
    assert recipe.optimizer.learning_rate == 1e-3


def test_an_architecture_may_want_other_sections_than_its_task() -> None:
    values: dict[str, Any] = {"task": "image-classification", "model": {"architecture": "vit"}}
    recipe = parse_recipe(with_recipe_defaults(values))
    assert (recipe.optimizer.name, recipe.init.scheme) == ("adamw", "default")
    asked = values | {"optimizer": {"name": "sgd"}, "train": {"epochs": 2}}
    recipe = parse_recipe(with_recipe_defaults(asked))
    assert (recipe.optimizer.name, recipe.optimizer.learning_rate) == ("sgd", 0.02)
    assert recipe.train.epochs == 2
    with pytest.raises(InvalidValueError, match=r"recipe\.model\.architecture"):
        parse_recipe(with_recipe_defaults(values | {"model": {"architecture": ["vit"]}}))


def test_hyperparameters_are_taken_whole() -> None:
    under = {"model": {"architecture": "a", "hyperparameters": {"width": 1}}}
    over = {"model": {"hyperparameters": {"depth": 2}}}
    assert merged(under, over) == {"model": {"architecture": "a", "hyperparameters": {"depth": 2}}}


def test_copies_are_fresh() -> None:
    recipe_defaults("text-classification", has_base=False)["train"]["epochs"] = 99
    assert recipe_defaults("text-classification", has_base=False)["train"]["epochs"] != 99


@pytest.mark.parametrize("values", [{}, {"task": "astrology"}, {"task": 3, "train": "x"}])
def test_what_has_no_task_is_left_for_validation_to_refuse(values: dict[str, Any]) -> None:
    assert with_recipe_defaults(values) == values
    with pytest.raises(InvalidValueError, match=r"recipe\.task"):
        parse_recipe(with_recipe_defaults(values))


def test_a_new_recogniser_learns_by_muon_and_a_base_by_adamw() -> None:
    new = parse_recipe(with_recipe_defaults({"task": "speech-recognition"}))
    assert (new.optimizer.name, new.optimizer.momentum) == ("muon", 0.95)
    tuned = with_recipe_defaults({"task": "speech-recognition", "model": {"base": "x"}})
    assert parse_recipe(tuned).optimizer.name == "adamw"
    asked = {"task": "speech-recognition", "optimizer": {"name": "adamw"}}
    assert parse_recipe(with_recipe_defaults(asked)).optimizer.momentum == 0.9
