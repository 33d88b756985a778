"""The regression's learner: loss, order, evaluation in the score's own unit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from purvey.contracts.recipe import parse_recipe
from purvey.contracts.recipe_parts.regression import RegressionConfig
from purvey.errors import InvalidValueError
from purvey.train.regression import RegressionLearner, score_loss

DELTA = "recipe.regression.huber_delta"


class Fixed:
    """Rows whose inputs are given; the network decides."""

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        self._network, self._x = network, x

    def __len__(self) -> int:
        return len(self._x)

    def logits(self, rows: Sequence[int]) -> Tensor:
        logits: Tensor = self._network(self._x[list(rows)])
        return logits


def learner(num_validation: int = 300, **config: Any) -> RegressionLearner:
    scale = nn.Linear(1, 1)
    nn.init.ones_(scale.weight)
    nn.init.zeros_(scale.bias)
    network = nn.Sequential(scale, nn.Dropout(0.5))
    return RegressionLearner(
        network,
        examples=Fixed(network, torch.arange(20.0)[:, None]),
        targets=np.zeros(20),
        validation=Fixed(network, torch.arange(float(num_validation))[:, None]),
        validation_targets=np.arange(num_validation, dtype=np.float64) - 0.5,
        deviation=8.0,
        config=RegressionConfig(**config),
        seed=4,
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"loss": "squared"}, [0.125, 4.5]),
        ({}, [0.125, 2.5]),
        ({"huber_delta": 2.0}, [0.125, 4.0]),
    ],
)
def test_losses_are_as_written(config: dict[str, Any], expected: list[float]) -> None:
    """0.5 x^2 up to delta, then delta (x - delta / 2)."""
    given = RegressionConfig(**config)
    for error, loss in zip([0.5, -3.0], expected, strict=True):
        found = score_loss(torch.tensor([error]), torch.zeros(1), given)
        assert float(found) == pytest.approx(loss)


def test_the_loss_is_the_mean_over_the_rows_asked_for() -> None:
    made = learner(loss="squared")
    made.module.eval()
    batch = made.loss([1, 3])
    assert float(batch.loss.detach()) == pytest.approx((1 + 9) / 4)
    assert (batch.num_rows, batch.num_tokens) == (2, 0)


def test_orders_repeat_and_differ_by_epoch() -> None:
    made = learner()
    assert list(made.order(0)) == list(made.order(0)) != list(made.order(1))
    assert sorted(made.order(2)) == list(range(20))


def test_validation_is_the_mean_absolute_error_in_the_scores_unit() -> None:
    found = learner().validate()
    assert found is not None
    assert found.metrics == {"valid_loss": pytest.approx(0.125), "mae": pytest.approx(4.0)}
    assert [found.score, found.loss] == pytest.approx([-4.0, 0.125])


def test_without_validation_rows_there_is_no_validation() -> None:
    assert learner(num_validation=0).validate() is None


@pytest.mark.parametrize(
    ("recipe", "param"),
    [
        ({"task": "classification", "regression": {"loss": "squared"}}, "recipe.regression"),
        (
            {"task": "regression", "regression": {"huber_delta": 0.0}},
            "recipe.regression.huber_delta",
        ),
        ({"task": "regression", "regression": {"los": "huber"}}, "recipe.regression.los"),
        (
            {"task": "regression", "regression": {"loss": "squared", "huber_delta": 2.0}},
            "recipe.regression",
        ),
    ],
)
def test_a_loss_that_makes_no_sense_is_refused(recipe: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidValueError) as refusal:
        parse_recipe(recipe)
    assert refusal.value.param == param
