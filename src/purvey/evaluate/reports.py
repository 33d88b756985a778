"""Test reports: metric name to value, interval and count, as JSON values.

Every metric has `value`, `low`, `high`, `num_rows`, `confidence`; tables without an interval
(`labels`, `confusion`, `calibration`, `slices`) stand beside them under their own names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from purvey.evaluate.bootstrap import Bootstrap, Estimate, outcome_interval, row_interval
from purvey.evaluate.calibration import calibration_error, log_softmax, reliability
from purvey.evaluate.metrics import (
    Floats,
    Ints,
    Outcomes,
    accuracy,
    confusion_matrix,
    count_outcomes,
    label_f1,
    macro_f1,
    precision_recall,
)
from purvey.evaluate.ranking import label_auroc, mean_auroc
from purvey.evaluate.slices import Slice, length_slices, sliced

_MOST_LABELS_SHOWN = 50
"""AUROC, per-label rows and the confusion matrix are left out above this many labels."""


@dataclass(frozen=True, kw_only=True)
class TextLosses:
    """A language model's loss on test rows: summed nats, counted tokens and characters, by row."""

    nats: Floats
    tokens: Floats
    characters: Floats | None = None


def classification_report(
    logits: Floats,
    targets: Ints,
    *,
    labels: Sequence[str],
    temperature: float,
    how: Bootstrap,
    slices: Sequence[Slice] = (),
) -> dict[str, Any]:
    """Report on a classifier's logits (`rows x labels`) for the untouched test rows.

    Args:
        logits: Before temperature.
        targets: True label numbers, at least one row.
        labels: Their names.
        temperature: As fitted on validation rows; 1 when it was not.
        how: Bootstrap settings.
        slices: Rows whose accuracy is reported beside that of all.
    """
    predictions = logits.argmax(axis=1)
    outcomes = count_outcomes(targets, predictions, num_labels=len(labels))
    all_log_probs = log_softmax(logits / temperature)
    log_probs = all_log_probs[np.arange(len(targets)), targets]
    report: dict[str, Any] = {  # JSON values
        "accuracy": outcome_interval(outcomes, accuracy, how).as_json(),
        "macro_f1": outcome_interval(outcomes, macro_f1, how).as_json(),
        "loss": row_interval(
            len(targets), lambda rows: np.asarray(-log_probs[rows].mean(axis=1)), how
        ).as_json(),
        "calibration": {
            "temperature": temperature,
            "error_before": calibration_error(logits, targets),
            "error_after": calibration_error(logits, targets, temperature=temperature),
            "num_rows": len(targets),
            "bins_before": reliability(logits, targets),
            "bins_after": reliability(logits, targets, temperature=temperature),
        },
    }
    if len(labels) <= _MOST_LABELS_SHOWN:
        report |= _by_label(outcomes, targets, np.exp(all_log_probs), labels=labels, how=how)
    if slices:
        is_right = (predictions == targets).astype(np.float64)
        report["slices"] = sliced(slices, "accuracy", is_right, np.ones(len(targets)), how)
    return report


def _by_label(
    outcomes: Outcomes, targets: Ints, probs: Floats, *, labels: Sequence[str], how: Bootstrap
) -> dict[str, Any]:
    """Report each label, what is taken for what, and the AUROC where two labels occur."""
    precision, recall, rows = precision_recall(outcomes)
    everyone = np.arange(len(targets))[None, :]
    table: dict[str, Any] = {}  # JSON values by label
    for i, label in enumerate(labels):
        is_label = (targets == i).astype(np.int64)
        area = float(label_auroc(probs[:, i], is_label, everyone)[0])
        table[label] = {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": outcome_interval(outcomes, partial(label_f1, label=i), how).as_json(),
            "auroc": area if np.isfinite(area) else None,
            "num_rows": int(rows[i]),
        }
    report = {"labels": table, "confusion": confusion_matrix(outcomes).tolist()}
    if any(found["auroc"] is not None for found in table.values()):
        estimate = row_interval(len(targets), partial(mean_auroc, probs, targets), how)
        report["auroc"] = estimate.as_json()
    return report


def language_report(losses: TextLosses, how: Bootstrap) -> dict[str, Any]:
    """Report a language model's loss in nats per token, its perplexity, and nats per character.

    The last, which does not depend on the tokenizer, counts the nats of end tokens too; it is
    there where characters are. The loss is also told by length, in tokens that are predicted.
    """

    def mean_loss(rows: Ints) -> Floats:
        tokens = np.maximum(1, losses.tokens[rows].sum(axis=1))
        return np.asarray(losses.nats[rows].sum(axis=1) / tokens)

    num_rows, characters = len(losses.nats), losses.characters
    report: dict[str, Any] = {  # JSON values
        "loss": row_interval(num_rows, mean_loss, how).as_json(),
        "perplexity": row_interval(num_rows, lambda rows: np.exp(mean_loss(rows)), how).as_json(),
    }
    if characters is not None:
        report["nats_per_character"] = row_interval(
            num_rows,
            lambda rows: np.asarray(
                losses.nats[rows].sum(axis=1) / np.maximum(1, characters[rows].sum(axis=1))
            ),
            how,
        ).as_json()
    slices = length_slices("length", losses.tokens.tolist(), unit="tokens")
    if slices:
        tokens = np.maximum(1, losses.tokens)
        report["slices"] = sliced(slices, "loss", losses.nats, tokens, how)
    return report


def preference_report(margins: Floats, losses: Floats, how: Bootstrap) -> dict[str, Any]:
    """Report how a tuned model rewards the better answers of test pairs.

    Args:
        margins: How much more reward the better answer of each pair has, in nats.
        losses: Loss of each pair, in nats.
        how: Bootstrap settings.
    """
    values = {
        "loss": losses,
        "reward_margin": margins,
        "reward_accuracy": (margins > 0).astype(np.float64),
    }
    return {name: _mean_interval(found, how).as_json() for name, found in values.items()}


def _mean_interval(values: Floats, how: Bootstrap) -> Estimate:
    return row_interval(len(values), lambda rows: np.asarray(values[rows].mean(axis=1)), how)
