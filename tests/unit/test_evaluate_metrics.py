"""Metrics against scikit-learn, intervals against what they must cover."""

import tracemalloc

import numpy as np
import pytest

from purvey.evaluate.bootstrap import Bootstrap, outcome_interval, row_interval
from purvey.evaluate.metrics import (
    Ints,
    accuracy,
    confusion_matrix,
    count_outcomes,
    label_f1,
    macro_f1,
    precision_recall,
)

LABELS = 4


def rows(seed: int, count: int = 200) -> tuple[Ints, Ints]:
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, LABELS, count)
    is_wrong = generator.random(count) < 0.3
    return targets, np.where(is_wrong, generator.integers(0, LABELS, count), targets)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_scikit_learn(seed: int) -> None:
    from sklearn import metrics as oracle

    targets, predictions = rows(seed, count=5 + 40 * seed)
    outcomes = count_outcomes(targets, predictions, num_labels=LABELS)
    counts = outcomes.counts[None, :]
    assert accuracy(outcomes, counts)[0] == pytest.approx(
        oracle.accuracy_score(targets, predictions)
    )
    assert macro_f1(outcomes, counts)[0] == pytest.approx(
        oracle.f1_score(targets, predictions, average="macro", zero_division=0)
    )
    table = oracle.confusion_matrix(targets, predictions, labels=range(LABELS))
    assert (confusion_matrix(outcomes) == table).all()
    precision, recall, f1, count = oracle.precision_recall_fscore_support(
        targets, predictions, labels=range(LABELS), zero_division=0
    )
    ours = precision_recall(outcomes)
    np.testing.assert_allclose(ours[0], precision)
    np.testing.assert_allclose(ours[1], recall)
    assert (ours[2] == count).all()
    for label in range(LABELS):
        assert label_f1(outcomes, counts, label)[0] == pytest.approx(f1[label])


def test_labels_that_never_occur_do_not_lower_the_mean() -> None:
    outcomes = count_outcomes(np.array([0, 1]), np.array([0, 1]), num_labels=9)
    assert macro_f1(outcomes, outcomes.counts[None, :])[0] == 1.0


def test_thousands_of_labels_need_no_table_of_outcomes_by_label() -> None:
    from sklearn import metrics as oracle

    generator = np.random.default_rng(0)
    targets, predictions = generator.integers(0, 3_000, size=(2, 20_000))
    outcomes = count_outcomes(targets, predictions, num_labels=3_000)
    tracemalloc.start()
    found = macro_f1(outcomes, outcomes.counts[None, :])[0]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 16 * 2**20
    assert found == pytest.approx(oracle.f1_score(targets, predictions, average="macro"))


def test_drawing_counts_is_drawing_rows() -> None:
    """The multinomial interval agrees with the one from resampled rows."""
    targets, predictions = rows(7, count=150)
    outcomes = count_outcomes(targets, predictions, num_labels=LABELS)
    how = Bootstrap(num_samples=4_000, seed=3)
    fast = outcome_interval(outcomes, accuracy, how)
    slow = row_interval(
        150, lambda chosen: (targets[chosen] == predictions[chosen]).mean(axis=1), how
    )
    assert fast.value == slow.value
    # Percentiles of 4,000 draws of a mean with s.d. 0.036: their own s.d. is about 0.001.
    assert fast.low == pytest.approx(slow.low, abs=0.01)
    assert fast.high == pytest.approx(slow.high, abs=0.01)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        targets = np.zeros(120, dtype=np.int64)
        predictions = (generator.random(120) < 0.2).astype(np.int64)
        outcomes = count_outcomes(targets, predictions, num_labels=2)
        found = outcome_interval(outcomes, accuracy, Bootstrap(num_samples=300, seed=seed))
        covered += found.low <= 0.8 <= found.high
    assert 0.88 <= covered / 200 <= 0.99  # 0.95 +- 4.5 standard errors, 120 rows being few


def test_the_same_seed_gives_the_same_interval_and_certainty_no_width() -> None:
    targets, predictions = rows(1)
    outcomes = count_outcomes(targets, predictions, num_labels=LABELS)
    first, again = (outcome_interval(outcomes, macro_f1, Bootstrap(seed=5)) for _ in range(2))
    assert first == again
    assert first.low < first.value < first.high
    perfect = count_outcomes(targets, targets, num_labels=LABELS)
    found = outcome_interval(perfect, accuracy, Bootstrap())
    assert (found.value, found.low, found.high, found.num_rows) == (1.0, 1.0, 1.0, 200)
