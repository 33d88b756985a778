"""Test reports: metric name to value, interval and count, as JSON values.

Every metric has `value`, `low`, `high`, `num_rows`, `confidence`; tables without an interval
(`labels`, `confusion`, `calibration`) stand beside them under their own names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from purvey.evaluate.bootstrap import Bootstrap, outcome_interval, row_interval
from purvey.evaluate.calibration import calibration_error, log_softmax
from purvey.evaluate.metrics import (
    Floats,
    Ints,
    accuracy,
    confusion_matrix,
    count_outcomes,
    label_f1,
    macro_f1,
    precision_recall,
)

_MOST_LABELS_SHOWN = 50
"""Per-label rows and the confusion matrix are left out above this many labels."""


@dataclass(frozen=True, kw_only=True)
class TextLosses:
    """A language model's loss on test rows: summed nats and counted tokens, row by row."""

    nats: Floats
    tokens: Floats


def classification_report(
    logits: Floats, targets: Ints, *, labels: Sequence[str], temperature: float, how: Bootstrap
) -> dict[str, Any]:
    """Report on a classifier's logits (`rows x labels`) for the untouched test rows.

    Args:
        logits: Before temperature.
        targets: True label numbers, at least one row.
        labels: Their names.
        temperature: As fitted on validation rows; 1 when it was not.
        how: Bootstrap settings.
    """
    outcomes = count_outcomes(targets, logits.argmax(axis=1), num_labels=len(labels))
    log_probs = log_softmax(logits / temperature)[np.arange(len(targets)), targets]
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
        },
    }
    if len(labels) <= _MOST_LABELS_SHOWN:
        precision, recall, rows = precision_recall(outcomes)
        report["labels"] = {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": outcome_interval(outcomes, partial(label_f1, label=i), how).as_json(),
                "num_rows": int(rows[i]),
            }
            for i, label in enumerate(labels)
        }
        report["confusion"] = confusion_matrix(outcomes).tolist()
    return report


def language_report(losses: TextLosses, how: Bootstrap) -> dict[str, Any]:
    """Report a language model's loss in nats per token, and its perplexity."""

    def mean_loss(rows: Ints) -> Floats:
        tokens = np.maximum(1, losses.tokens[rows].sum(axis=1))
        return np.asarray(losses.nats[rows].sum(axis=1) / tokens)

    num_rows = len(losses.nats)
    return {
        "loss": row_interval(num_rows, mean_loss, how).as_json(),
        "perplexity": row_interval(num_rows, lambda rows: np.exp(mean_loss(rows)), how).as_json(),
    }
