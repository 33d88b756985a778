"""Recipes: resolved in full, refused with the field and the nearest name."""

import math
from typing import Any

import pytest

from purvey.contracts.recipe import parse_recipe, parse_recipe_toml
from purvey.errors import InvalidValueError


def test_everything_unsaid_is_resolved_and_digested() -> None:
    bare = parse_recipe({"task": "text-classification"})
    spelled = parse_recipe(bare.model_dump(mode="json"))
    assert bare.digest() == spelled.digest()
    assert parse_recipe({"task": "text-classification", "seed": 1}).digest() != bare.digest()


@pytest.mark.parametrize(
    ("values", "param", "words"),
    [
        ({"task": "text-clasification"}, "recipe.task", "text-classification"),
        ({"task": "text-generation", "trian": {}}, "recipe.trian", "Did you mean 'train'"),
        (
            {"task": "text-generation", "train": {"epoch": 1}},
            "recipe.train.epoch",
            "Did you mean 'epochs'",
        ),
        (
            {"task": "text-generation", "train": {"lerning_rate": 1}},
            "recipe.train.lerning_rate",
            "optimizer.learning_rate",
        ),
        (
            {"task": "text-generation", "optimizer": {"learning_rate": math.nan}},
            "recipe.optimizer.learning_rate",
            "finite",
        ),
        (
            {"task": "text-generation", "optimizer": {"learning_rate": -1.0}},
            "recipe.optimizer.learning_rate",
            "greater than 0",
        ),
        (
            {"task": "text-generation", "train": {"batch_size": 10**9}},
            "recipe.train.batch_size",
            "65536",
        ),
        ({"task": "text-generation", "train": {"epochs": 10**9}}, "recipe.train.epochs", "10000"),
        (
            {"task": "text-generation", "train": {"sequence_tokens": 10**9}},
            "recipe.train.sequence_tokens",
            "131072",
        ),
        (
            {"task": "text-generation", "model": {"base": "a", "architecture": "decoder"}},
            "recipe.model",
            "not both",
        ),
        (
            {
                "task": "text-generation",
                "model": {"architecture": "decoder"},
                "train": {"method": "lora"},
            },
            "recipe",
            "model.base",
        ),
        (
            {
                "task": "image-classification",
                "model": {"base": "digits"},
                "init": {"scheme": "kaiming_normal"},
            },
            "recipe.init.scheme",
            "model.base has its own",
        ),
        (
            {"task": "text-generation", "model": {"hyperparameters": {"hidden_size": 65_536}}},
            "recipe.model.hyperparameters",
            "4096 x 65536, and 4 layers of 51543932928",
        ),
        (
            {"task": "text-generation", "train": {"objective": "dpo"}},
            "recipe.train.objective",
            "set model.base",
        ),
        (
            {"task": "text-classification", "train": {"objective": "dpo"}},
            "recipe.train.objective",
            "no effect on text-classification",
        ),
        (
            {"task": "text-classification", "train": {"packing": False}},
            "recipe.train.packing",
            "no effect on text-classification",
        ),
        (
            {"task": "text-generation", "model": {"base": "a"}, "dpo": {"beta": 0.2}},
            "recipe.dpo",
            "without train.objective 'dpo'",
        ),
        (
            {"task": "text-generation", "model": {"base": "a"}, "lora": {"rank": 4}},
            "recipe.lora",
            "without train.method 'lora'",
        ),
        (
            {
                "task": "text-generation",
                "model": {"base": "a"},
                "train": {"objective": "dpo", "label_smoothing": 0.1},
            },
            "recipe.train.label_smoothing",
            "no effect on train.objective",
        ),
        ({}, "recipe.task", "required"),
    ],
)
def test_a_bad_recipe_names_field_and_cure(values: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidValueError, match=words) as caught:
        parse_recipe(values)
    assert caught.value.param == param


def test_text_that_is_not_toml_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidValueError, match="line 2"):
        parse_recipe_toml('task = "text-generation"\n[train\n')


def test_toml_becomes_values() -> None:
    assert parse_recipe_toml("seed = 3\n[train]\nepochs = 2") == {"seed": 3, "train": {"epochs": 2}}
