"""AUROC against scikit-learn, reliability bins, and slices of the test rows."""

import numpy as np
import pytest

from purvey.evaluate.bootstrap import Bootstrap
from purvey.evaluate.calibration import calibration_error, reliability
from purvey.evaluate.ranking import label_auroc, mean_auroc
from purvey.evaluate.reports import TextLosses, classification_report, language_report
from purvey.evaluate.scores import regression_report
from purvey.evaluate.slices import category_slices, length_slices, sliced

HOW = Bootstrap(num_samples=200)


def test_the_area_of_every_resample_is_that_of_scikit_learn_ties_included() -> None:
    from sklearn.metrics import roc_auc_score

    chance = np.random.default_rng(1)
    scores = chance.integers(0, 6, 40) / 5
    is_label = (scores + chance.normal(0, 0.4, 40) > 0.6).astype(np.int64)
    rows = chance.integers(0, 40, (20, 40))
    areas = label_auroc(scores, is_label, rows)
    wanted = [roc_auc_score(is_label[one], scores[one]) for one in rows]
    np.testing.assert_allclose(areas, wanted, rtol=1e-12)


def test_the_mean_area_is_one_versus_rest() -> None:
    from sklearn.metrics import roc_auc_score

    chance = np.random.default_rng(2)
    probs = chance.dirichlet((1, 1, 1), 60)
    targets = (probs.cumsum(axis=1) < chance.random((60, 1))).sum(axis=1)
    everyone = np.arange(60)[None, :]
    [area] = mean_auroc(probs, targets, everyone)
    assert area == pytest.approx(roc_auc_score(targets, probs, multi_class="ovr"))
    binary = probs[:, :2] / probs[:, :2].sum(axis=1, keepdims=True)
    labels = (targets > 0).astype(np.int64)
    [two] = mean_auroc(binary, labels, everyone)
    assert two == pytest.approx(roc_auc_score(labels, binary[:, 1]))


def test_a_resample_of_one_side_has_no_area_and_moves_no_interval() -> None:
    scores, is_label = np.array([0.1, 0.9]), np.array([0, 1])
    areas = label_auroc(scores, is_label, np.array([[0, 1], [1, 1]]))
    assert areas[0] == 1.0
    assert np.isnan(areas[1])
    report = classification_report(
        np.eye(2) * 3, np.array([0, 1]), labels=("a", "b"), temperature=1.0, how=HOW
    )
    assert (report["auroc"]["low"], report["auroc"]["high"]) == (1.0, 1.0)


def test_a_test_split_of_one_label_has_no_area() -> None:
    report = classification_report(
        np.eye(2), np.array([0, 0]), labels=("a", "b"), temperature=1.0, how=HOW
    )
    assert "auroc" not in report
    assert report["labels"]["a"]["auroc"] is None


def test_reliability_bins_add_up_to_the_calibration_error() -> None:
    chance = np.random.default_rng(3)
    logits, targets = chance.normal(0, 2, (500, 3)), chance.integers(0, 3, 500)
    bins = reliability(logits, targets, temperature=1.5)
    assert sum(one["num_rows"] for one in bins) == 500
    gaps = [one["num_rows"] * abs(one["accuracy"] - one["confidence"]) for one in bins]
    error = calibration_error(logits, targets, temperature=1.5)
    assert sum(gaps) / 500 == pytest.approx(error)


def test_categories_are_divided_by_value_and_the_rare_ones_share_a_slice() -> None:
    values = [f"v{number}" for number in range(10) for _ in range(10 - number)]
    slices = category_slices("region", values)
    assert [one.value for one in slices] == [*(f"v{n}" for n in range(8)), "all other values"]
    assert [len(one.rows) for one in slices] == [10, 9, 8, 7, 6, 5, 4, 3, 3]
    assert sorted(np.concatenate([one.rows for one in slices])) == list(range(len(values)))
    assert category_slices("region", ["north"] * 5) == []


def test_lengths_are_divided_into_quarters() -> None:
    slices = length_slices("text", list(range(1, 101)), unit="characters")
    assert [len(one.rows) for one in slices] == [25, 25, 25, 25]
    assert slices[0].value == "1 to 25 characters"
    assert slices[-1].value == "76 to 100 characters"
    same = length_slices("text", [3.0] * 50 + [8.0] * 10, unit="tokens")
    assert [(one.value, len(one.rows)) for one in same] == [("3 tokens", 50), ("8 tokens", 10)]
    assert length_slices("text", [4.0] * 50, unit="characters") == []


def test_a_slice_is_measured_on_its_own_rows() -> None:
    slices = category_slices("region", ["a", "a", "a", "b"])
    right, units = np.array([1.0, 1.0, 0.0, 0.0]), np.array([1.0, 1.0, 2.0, 1.0])
    [first, second] = sliced(slices, "rate", right, units, HOW)
    assert (first["column"], first["value"], first["num_rows"]) == ("region", "a", 3)
    assert first["rate"]["value"] == pytest.approx(2 / 4)
    assert second["rate"]["value"] == 0.0


def test_reports_carry_their_slices() -> None:
    slices = category_slices("region", ["a", "b", "b"])
    logits, targets = np.eye(2)[[0, 0, 1]] * 9, np.array([0, 1, 1])
    report = classification_report(
        logits, targets, labels=("x", "y"), temperature=1.0, how=HOW, slices=slices
    )
    assert {one["value"]: one["accuracy"]["value"] for one in report["slices"]} == {
        "a": 1.0,
        "b": 0.5,
    }
    scores = regression_report(
        np.array([1.0, 2.0, 5.0]), np.array([1.0, 3.0, 3.0]), baseline=2.0, how=HOW, slices=slices
    )
    assert {one["value"]: one["mae"]["value"] for one in scores["slices"]} == {"a": 0.0, "b": 1.5}
    nats = np.arange(8.0)
    text = language_report(TextLosses(nats=nats, tokens=np.arange(1.0, 9.0)), HOW)
    assert text["slices"][0]["loss"]["value"] == pytest.approx((0 + 1) / (1 + 2))
