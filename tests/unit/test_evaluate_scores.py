"""A regression's report against scikit-learn, and where little is known."""

import numpy as np
import pytest

from purvey.evaluate.bootstrap import Bootstrap
from purvey.evaluate.scores import regression_report

HOW = Bootstrap(num_samples=400, confidence=0.9, seed=3)


def test_numbers_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    chance = np.random.default_rng(5)
    wanted = chance.normal(40.0, 8.0, 300)
    predicted = wanted + chance.normal(0.5, 3.0, 300)
    report = regression_report(predicted, wanted, baseline=41.0, how=HOW)
    blind = np.full(300, 41.0)
    oracle = {
        "mae": mean_absolute_error(wanted, predicted),
        "rmse": root_mean_squared_error(wanted, predicted),
        "r2": r2_score(wanted, predicted),
        "baseline_mae": mean_absolute_error(wanted, blind),
        "baseline_rmse": root_mean_squared_error(wanted, blind),
    }
    assert report.keys() == oracle.keys()
    for name, value in oracle.items():
        assert report[name]["value"] == pytest.approx(value, rel=1e-12), name
        assert report[name]["low"] < value < report[name]["high"]
        assert (report[name]["num_rows"], report[name]["confidence"]) == (300, 0.9)


def test_intervals_cover_as_often_as_they_say() -> None:
    """Over 200 samples of known error, 90 % intervals hold the true value 90 % of the time."""
    chance = np.random.default_rng(6)
    true_mae, covered = np.sqrt(2 / np.pi), 0
    for seed in range(200):
        errors = chance.normal(0.0, 1.0, 150)
        how = Bootstrap(num_samples=300, confidence=0.9, seed=seed)
        mae = regression_report(errors, np.zeros(150), baseline=0.0, how=how)["mae"]
        covered += mae["low"] <= true_mae <= mae["high"]
    # Binomial(200, 0.9) has deviation 4.2; a percentile bootstrap of 150 rows covers a bit less.
    assert 165 <= covered <= 195


@pytest.mark.parametrize("predicted", [[2.0, 2.0, 2.0], [1.0, 2.0, 4.0]])
def test_scores_that_are_all_the_same_have_the_r2_of_scikit_learn(predicted: list[float]) -> None:
    from sklearn.metrics import r2_score

    wanted = np.full(3, 2.0)
    report = regression_report(np.array(predicted), wanted, baseline=2.0, how=HOW)
    assert report["r2"]["value"] == r2_score(wanted, predicted)
    assert all(np.isfinite(metric["low"]) for metric in report.values())


def test_one_row_has_no_variance_to_explain() -> None:
    report = regression_report(np.array([3.0]), np.array([1.0]), baseline=0.0, how=HOW)
    assert "r2" not in report
    assert report["mae"] == {
        "value": 2.0,
        "low": 2.0,
        "high": 2.0,
        "num_rows": 1,
        "confidence": 0.9,
    }
