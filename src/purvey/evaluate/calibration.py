"""Calibration: does 80 % mean 80 %? Temperature scaling and its error (Guo et al. 2017).

Shape letters, this file only:
    B = rows    L = labels
"""

import numpy as np

from purvey.evaluate.metrics import Floats, Ints

NUM_BINS = 15
"""Bins of the calibration error, of equal width over (0, 1]."""

_LOWEST, _HIGHEST = 0.05, 20.0
_PRIOR_STD = 0.5
_GOLDEN = (5**0.5 - 1) / 2


def log_softmax(logits_BL: Floats) -> Floats:
    """Return log-probabilities, computed in float64."""
    shifted_BL = logits_BL - logits_BL.max(axis=1, keepdims=True)
    normed_BL: Floats = shifted_BL - np.log(np.exp(shifted_BL).sum(axis=1, keepdims=True))
    return normed_BL


def mean_nll(logits_BL: Floats, targets_B: Ints, *, temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood of the targets, in nats."""
    log_probs_BL = log_softmax(logits_BL / temperature)
    return float(-log_probs_BL[np.arange(len(targets_B)), targets_B].mean())


def fit_temperature(logits_BL: Floats, targets_B: Ints) -> float:
    """Return the temperature in [0.05, 20] that fits the validation rows best.

    It minimises the summed negative log-likelihood plus `(log T)^2 / (2 s^2)`, a normal prior
    on log T around 0 with s = `_PRIOR_STD`. Without it, a few rows that are all right would
    ask for a temperature of 0, that is, for certainty; with many rows it makes no difference.
    The likelihood is convex in 1/T (Guo et al. 2017, section 4.2); a golden-section search
    over log T finds the minimum to a relative 1e-4.
    """
    low, high = np.log(_LOWEST), np.log(_HIGHEST)

    def loss(log_temperature: float) -> float:
        nll = mean_nll(logits_BL, targets_B, temperature=float(np.exp(log_temperature)))
        return nll * len(targets_B) + log_temperature**2 / (2 * _PRIOR_STD**2)

    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > 1e-4:
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - _GOLDEN * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + _GOLDEN * (high - low)
            loss_right = loss(right)
    return float(np.exp((low + high) / 2))


def calibration_error(logits_BL: Floats, targets_B: Ints, *, temperature: float = 1.0) -> float:
    """Return the expected calibration error in [0, 1] of the top label, over `NUM_BINS` bins."""
    _, confidence, right = _binned(logits_BL, targets_B, temperature)
    return float(np.abs(right - confidence).sum() / len(targets_B))


def reliability(
    logits_BL: Floats, targets_B: Ints, *, temperature: float = 1.0
) -> list[dict[str, float | int]]:
    """Return the bins of the calibration error that hold rows, as JSON values.

    Each has `num_rows`, their mean `confidence` in the top label, and `accuracy`, how often it
    was the right one; all of a model that knows how sure it may be are equal.
    """
    rows, confidence, right = _binned(logits_BL, targets_B, temperature)
    return [
        {
            "num_rows": int(rows[i]),
            "confidence": float(confidence[i] / rows[i]),
            "accuracy": float(right[i] / rows[i]),
        }
        for i in np.flatnonzero(rows)
    ]


def _binned(logits_BL: Floats, targets_B: Ints, temperature: float) -> tuple[Ints, Floats, Floats]:
    """Return by bin of confidence: rows, summed confidence, right answers."""
    probs_BL = np.exp(log_softmax(logits_BL / temperature))
    confidence_B = probs_BL.max(axis=1)
    is_right_B = (probs_BL.argmax(axis=1) == targets_B).astype(np.float64)
    bins_B = np.minimum((confidence_B * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    confidence = np.bincount(bins_B, weights=confidence_B, minlength=NUM_BINS)
    right = np.bincount(bins_B, weights=is_right_B, minlength=NUM_BINS)
    rows = np.bincount(bins_B, minlength=NUM_BINS)
    return rows, confidence.astype(np.float64), right.astype(np.float64)
