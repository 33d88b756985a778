"""The classifier's learner: order, loss, evaluation."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from purvey.train.classification import ClassifierLearner
from purvey.train.early_stopping import Validation
from purvey.train.examples import predict


class Fixed:
    """Rows whose inputs are given; the network decides."""

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        self._network, self._x = network, x

    def __len__(self) -> int:
        return len(self._x)

    def logits(self, rows: Sequence[int]) -> Tensor:
        logits: Tensor = self._network(self._x[list(rows)])
        return logits


def learner(num_validation: int = 300) -> ClassifierLearner:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
    x = torch.randn(20, 2)
    valid = torch.randn(num_validation, 2)
    return ClassifierLearner(
        network,
        examples=Fixed(network, x),
        targets=np.arange(20) % 3,
        validation=Fixed(network, valid),
        validation_targets=np.arange(num_validation) % 3,
        measure=lambda logits, targets: {
            "macro_f1": 0.25,
            "accuracy": float((logits.argmax(axis=1) == targets).mean()),
        },
        seed=4,
    )


def test_the_loss_is_the_mean_cross_entropy() -> None:
    made = learner()
    made.module.eval()
    batch = made.loss([3, 5])
    logits = made.module(torch.stack([made._examples._x[3], made._examples._x[5]]))  # type: ignore[attr-defined]  # the test's own Fixed
    expected = -logits.log_softmax(dim=1)[[0, 1], [0, 2]].mean()
    assert float(batch.loss.detach()) == pytest.approx(float(expected.detach()))
    assert (batch.num_rows, batch.num_tokens) == (2, 0)


def test_orders_repeat_and_differ_by_epoch() -> None:
    made = learner()
    assert list(made.order(0)) == list(made.order(0)) != list(made.order(1))
    assert sorted(made.order(2)) == list(range(20))


def test_validation_is_measured_without_dropout() -> None:
    made = learner()
    first, second = made.validate(), made.validate()
    assert first == second
    assert isinstance(first, Validation)
    assert first.score == 0.25
    assert set(first.metrics) == {"valid_loss", "macro_f1", "accuracy"}


def test_without_validation_rows_there_is_no_validation() -> None:
    assert learner(num_validation=0).validate() is None


def test_predicting_covers_all_rows_in_order() -> None:
    network = nn.Identity()
    x = torch.arange(600.0).reshape(300, 2)
    assert predict(network, Fixed(network, x)).tolist() == x.tolist()
