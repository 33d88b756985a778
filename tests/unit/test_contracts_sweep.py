"""What a sweep may be: its space, the recipes at its ends, the arithmetic of its budget."""

import json
import math
from typing import Any

import pytest
from pydantic import ValidationError

from purvey.contracts.sweep.check import check_sweep
from purvey.contracts.sweep.config import (
    SweepConfig,
    default_direction,
    default_metric,
    trial_values,
)
from purvey.contracts.sweep.space import (
    Choices,
    Dimension,
    Range,
    num_points,
    placed,
    samples,
)
from purvey.errors import InvalidValueError

RECIPE = {"task": "text-classification", "dataset": "ds_0", "name": "spam"}
RATE = {"low": 1e-4, "high": 1e-1, "log": True}


def config(**changes: Any) -> SweepConfig:
    values = {
        "recipe": RECIPE,
        "space": {"optimizer.learning_rate": RATE},
        "metric": "macro_f1",
        "direction": "maximize",
        "max_trials": 12,
    }
    return SweepConfig.model_validate(values | changes)


def refusal(**changes: Any) -> InvalidValueError:
    with pytest.raises(InvalidValueError) as caught:
        check_sweep(config(**changes))
    return caught.value


@pytest.mark.parametrize(
    "bad",
    [
        {"low": 1, "high": 1},
        {"low": 2, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"low": 1, "high": 8, "log": True, "step": 2},
        {"low": 1, "high": 8, "step": 2},
        {"low": 1, "high": 8, "step": 0},
        {"low": 1, "high": 8, "step": -1},
        {"low": math.nan, "high": 1.0},
        {"low": 0.0, "high": math.inf},
        {"low": True, "high": 2},
        {"low": "1", "high": 2},
        {"low": 1},
        {"low": 1, "high": 2, "values": [1]},
        {"values": []},
        {"values": [1, 1]},
        {"values": [1, {"a": [2**64]}]},
        {"values": list(range(101))},
        {},
    ],
)
def test_what_is_no_dimension_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(space={"seed": bad})


@pytest.mark.parametrize("name", ["", "a.", ".a", "a..b", "a b", "1a", "a-b"])
def test_what_is_no_field_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        config(space={name: RATE})


def test_whole_ends_mean_whole_numbers() -> None:
    assert (Range(low=1, high=8).is_whole, Range(low=1.0, high=8).is_whole) == (True, False)
    assert Range(low=1, high=8).num_points == 8
    assert Range(low=8, high=64, step=8).num_points == 8
    assert Range(low=0.0, high=1.0, step=0.1).num_points == 11
    assert math.isinf(Range(low=0.0, high=1.0).num_points)
    space: dict[str, Dimension] = {"a": Choices(values=[1, "x", None]), "b": Range(low=0, high=3)}
    assert num_points(space) == 12


def test_all_corners_are_tried_where_they_are_few_and_each_value_where_they_are_many() -> None:
    few: dict[str, Dimension] = {"a": Range(low=0, high=9), "b": Choices(values=["x", "y", "z"])}
    assert len(list(samples(few))) == 6
    many: dict[str, Dimension] = {f"f{i}": Choices(values=list(range(50))) for i in range(3)}
    tried = list(samples(many))
    assert len(tried) == 150
    assert all({one[name] for one in tried} == set(range(50)) for name in many)


def test_parameters_take_their_place_and_the_recipe_is_left_as_it_was() -> None:
    recipe = {"task": "x", "model": {"hyperparameters": {"width": 8}}}
    before = json.dumps(recipe)
    found = placed(recipe, {"model.hyperparameters.width": 16, "optimizer.learning_rate": 0.1})
    assert found["model"] == {"hyperparameters": {"width": 16}}
    assert found["optimizer"] == {"learning_rate": 0.1}
    assert json.dumps(recipe) == before
    with pytest.raises(InvalidValueError, match=r"'task' of 'task\.x' has no parts"):
        placed(recipe, {"task.x": 1})


def test_defaults_follow_the_parameters() -> None:
    """A trial's optimizer brings its own rate, not that of the default optimizer."""
    found = trial_values(config(), {"optimizer.name": "sgd"})
    assert found["optimizer"] == {"learning_rate": 0.02, "name": "sgd"}


def test_the_metric_follows_the_task_and_the_direction_the_metric() -> None:
    assert default_metric("audio-classification") == "macro_f1"
    assert default_metric("text-generation") == "valid_loss"
    assert [default_direction(name) for name in ("valid_loss", "wer", "calibration_error")] == [
        "minimize"
    ] * 3
    assert [default_direction(name) for name in ("macro_f1", "accuracy", "recall_at_5")] == [
        "maximize"
    ] * 3


def test_a_good_sweep_is_accepted_with_the_recipes_that_were_tried() -> None:
    tried = check_sweep(config())
    assert [recipe.optimizer.learning_rate for recipe in tried] == [1e-4, 1e-1]


def test_a_misspelt_field_is_refused_with_the_nearest_name() -> None:
    error = refusal(space={"optimizer.lerning_rate": RATE})
    assert error.param == "space.optimizer.lerning_rate"
    assert "learning_rate" in error.text


def test_a_value_that_the_field_does_not_take_is_refused_by_its_field() -> None:
    error = refusal(space={"optimizer.learning_rate": {"low": 1.0, "high": 100.0}})
    assert error.param == "space.optimizer.learning_rate"
    error = refusal(space={"train.batch_size": {"low": 1.5, "high": 3.5}})
    assert error.param == "space.train.batch_size"
    error = refusal(space={"optimizer.name": {"values": ["adamw", "adam"]}}, max_trials=2)
    assert (error.param or "").startswith("space.optimizer.name")


@pytest.mark.parametrize("name", ["task", "name", "dataset", "model.base", "model"])
def test_what_trials_have_in_common_is_not_searched(name: str) -> None:
    error = refusal(space={name: {"values": ["a", "b"]}}, max_trials=2)
    assert error.param == f"space.{name}"


def test_a_field_is_searched_once() -> None:
    space = {
        "train.early_stopping": {"values": [None, {"patience": 3}]},
        "train.early_stopping.patience": {"low": 1, "high": 9},
    }
    assert refusal(space=space).param == "space.train.early_stopping.patience"


def test_the_recipe_must_be_good_without_parameters_too() -> None:
    assert refusal(recipe=RECIPE | {"train": {"epochs": 0}}).param == "recipe.train.epochs"
    assert refusal(recipe={"task": "poetry"}).param == "recipe.task"


def test_a_number_of_training_is_no_metric() -> None:
    assert refusal(metric="train_loss").param == "metric"


def test_pruning_needs_evaluations_that_compare() -> None:
    space = {"train.evals_per_epoch": {"low": 1, "high": 9}}
    assert refusal(space=space, max_trials=9).param == "pruner"
    assert check_sweep(config(space=space, max_trials=9, pruner="none"))


def test_more_at_once_than_there_are_is_refused() -> None:
    assert refusal(max_trials=2, parallel=3).param == "parallel"


def test_a_space_with_fewer_points_than_trials_is_refused_with_the_arithmetic() -> None:
    space = {"train.batch_size": {"values": [16, 32]}, "train.epochs": {"low": 1, "high": 3}}
    error = refusal(space=space)
    assert error.param == "max_trials"
    assert "2 x 3 = 6 points, fewer than 12" in error.text
    assert check_sweep(config(space=space, max_trials=6))


def test_a_budget_that_cannot_hold_its_trials_is_refused_with_the_arithmetic() -> None:
    recipe = RECIPE | {"train": {"max_minutes": 10.0}}
    error = refusal(recipe=recipe, max_minutes=30.0, parallel=2)
    assert error.param == "max_minutes"
    assert "12 trials of up to 10 minutes, 2 at a time" in error.text
    assert "6 x 10 = 60 minutes; max_minutes is 30" in error.text
    assert "Lower max_trials to 6, or raise max_minutes to 60." in error.text
    assert check_sweep(config(recipe=recipe, max_minutes=60.0, parallel=2))
    assert check_sweep(config(recipe=recipe, max_minutes=30.0, parallel=2, max_trials=6))
    longer = {"train.max_minutes": {"values": [1.0, 20.0]}, "optimizer.learning_rate": RATE}
    assert "12 x 20 = 240" in refusal(space=longer, max_minutes=30.0).text
