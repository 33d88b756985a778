"""Calibration and the shape of reports."""

import math

import numpy as np
import pytest

from purvey.evaluate.bootstrap import Bootstrap
from purvey.evaluate.calibration import (
    calibration_error,
    fit_temperature,
    log_softmax,
    mean_nll,
)
from purvey.evaluate.metrics import Floats, Ints
from purvey.evaluate.reports import (
    TextLosses,
    classification_report,
    language_report,
    preference_report,
)


def overconfident(factor: float, count: int = 4_000) -> tuple[Floats, Ints]:
    """Draw labels from a softmax, then tell logits that are `factor` times too large."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(count, 3)) * 2
    probabilities = np.exp(log_softmax(logits))
    targets = (probabilities.cumsum(axis=1) < generator.random((count, 1))).sum(axis=1)
    return logits * factor, targets.astype(np.int64)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_factor(factor: float) -> None:
    logits, targets = overconfident(factor)
    temperature = fit_temperature(logits, targets)
    assert temperature == pytest.approx(factor, rel=0.08)  # 4,000 rows: about 2.5 % s.e.
    before = calibration_error(logits, targets)
    after = calibration_error(logits, targets, temperature=temperature)
    assert after < 0.03
    assert mean_nll(logits, targets, temperature=temperature) <= mean_nll(logits, targets) + 1e-9
    if factor == 3.0:
        assert before > 5 * after


def test_a_few_right_answers_do_not_ask_for_certainty() -> None:
    targets = np.array([0, 1, 0, 1])
    logits = np.eye(2)[targets] * 4.0
    assert fit_temperature(logits, targets) > 0.5


def test_calibration_error_of_known_cases() -> None:
    targets = np.array([0, 0, 1, 1])
    sure_and_half_right = np.tile([1_000.0, 0.0], (4, 1))
    assert calibration_error(sure_and_half_right, targets) == pytest.approx(0.5)
    assert calibration_error(np.zeros((4, 2)), targets) == pytest.approx(0.0)


def test_a_classification_report_has_intervals_and_tables() -> None:
    logits, targets = overconfident(2.0, count=300)
    report = classification_report(
        logits, targets, labels=("a", "b", "c"), temperature=2.0, how=Bootstrap(num_samples=200)
    )
    for metric in (report["accuracy"], report["macro_f1"], report["loss"]):
        assert metric.keys() == {"value", "low", "high", "num_rows", "confidence"}
        assert metric["low"] <= metric["value"] <= metric["high"]
        assert metric["num_rows"] == 300
    assert report["loss"]["value"] == pytest.approx(mean_nll(logits, targets, temperature=2.0))
    assert list(report["labels"]) == ["a", "b", "c"]
    assert np.array(report["confusion"]).sum() == 300
    calibration = report["calibration"]
    assert calibration["error_after"] < calibration["error_before"]


def test_tables_are_left_out_where_labels_are_many() -> None:
    logits = np.eye(60)
    report = classification_report(
        logits,
        np.arange(60),
        labels=[str(i) for i in range(60)],
        temperature=1.0,
        how=Bootstrap(num_samples=100),
    )
    assert report["accuracy"]["value"] == 1.0
    assert "confusion" not in report
    assert "labels" not in report


def test_a_language_report_weighs_tokens_not_rows() -> None:
    losses = TextLosses(nats=np.array([10.0, 90.0]), tokens=np.array([10.0, 30.0]))
    report = language_report(losses, Bootstrap(num_samples=500))
    assert report["loss"]["value"] == pytest.approx(2.5)
    assert (report["loss"]["low"], report["loss"]["high"]) == (1.0, 3.0)
    assert report["perplexity"]["value"] == pytest.approx(math.exp(2.5))


def test_nats_per_character_are_reported_where_characters_are_known() -> None:
    nats, tokens = np.array([10.0, 90.0]), np.array([10.0, 30.0])
    how = Bootstrap(num_samples=100)
    with_characters = TextLosses(nats=nats, tokens=tokens, characters=np.array([20.0, 60.0]))
    report = language_report(with_characters, how)
    assert report["nats_per_character"]["value"] == pytest.approx(100 / 80)
    assert report["loss"]["value"] == pytest.approx(100 / 40)
    assert "nats_per_character" not in language_report(TextLosses(nats=nats, tokens=tokens), how)


def test_a_preference_report_has_margin_and_accuracy_with_intervals() -> None:
    margins = np.array([2.0, 1.0, -1.0, 2.0])
    losses = np.logaddexp(0, -margins)
    report = preference_report(margins, losses, Bootstrap(num_samples=100))
    assert report["reward_margin"]["value"] == pytest.approx(1.0)
    assert report["reward_accuracy"]["value"] == pytest.approx(0.75)
    assert report["loss"]["value"] == pytest.approx(losses.mean())
    assert report["reward_accuracy"]["low"] < 0.75 < report["reward_accuracy"]["high"]
