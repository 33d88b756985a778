"""Metrics in plain words."""

import re
from collections.abc import Mapping
from typing import Any

from purvey.server.reporting.axes import shown
from purvey.server.reporting.values import number

_VALIDATION = "validation_"
_CUT = re.compile(r"_in_\d+_dimensions$")
"""At the end of the name of what vectors of fewer numbers do."""
_WORDS: dict[str, tuple[str, str]] = {
    "accuracy": ("Accuracy", "Share of rows answered right. 1 is best."),
    "macro_f1": (
        "Macro F1",
        "Precision and recall in one number, every label counting alike. 1 is best.",
    ),
    "auroc": (
        "AUROC",
        "Chance that a row of a label gets a higher probability of it than another row; the "
        "mean over labels. 1 is best, 0.5 is guessing.",
    ),
    "loss": ("Loss", "How surprising the right answers are to the model, in nats. 0 is best."),
    "perplexity": (
        "Perplexity",
        "Between how many equally likely tokens the model hesitates. 1 is best.",
    ),
    "nats_per_character": ("Nats per character", "The loss by character. 0 is best."),
    "wer": ("Word error rate", "Mistaken words by words said. 0 is best."),
    "cer": ("Character error rate", "Mistaken characters by characters said. 0 is best."),
    "exact_match": (
        "Exact match",
        "Share of rows whose answer is written as expected, to the last token. 1 is best.",
    ),
    "exact": ("Exact", "Share of recordings written down without a mistake. 1 is best."),
    "mae": ("Mean absolute error", "How far off a score is on average, in its unit. 0 is best."),
    "rmse": ("Root mean square error", "As the line above, large errors counting more."),
    "r2": ("R²", "Share of the variance that is explained. 1 is best, 0 is saying the mean."),
    "baseline_mae": ("Mean absolute error of the mean", "Of always saying the training mean."),
    "baseline_rmse": ("Root mean square error of the mean", "Of always saying the training mean."),
    "recall_at_1": (
        "Recall at 1",
        "Share of texts whose nearest is one that belongs to it. 1 is best.",
    ),
    "recall_at_5": ("Recall at 5", "Share with one that belongs to it among the nearest five."),
    "recall_at_10": ("Recall at 10", "Share with one that belongs to it among the nearest ten."),
    "mrr": (
        "Mean reciprocal rank",
        "Mean of 1 by the place of the first that belongs to a text. 1 is best.",
    ),
    "untrained_recall_at_1": ("Recall at 1 untrained", "As it was before the first step."),
    "image_to_text_recall_at_1": (
        "Recall at 1 of texts by images",
        "Share of images whose nearest text is one that belongs to it. 1 is best.",
    ),
    "image_to_text_recall_at_5": ("Recall at 5 of texts by images", ""),
    "image_to_text_recall_at_10": ("Recall at 10 of texts by images", ""),
    "image_to_text_mrr": ("Mean reciprocal rank of texts by images", ""),
    "image_to_text_untrained_recall_at_1": (
        "Recall at 1 of texts by images, untrained",
        "As it was before the first step.",
    ),
    "reward_margin": ("Reward margin", "By how many nats the better answer is preferred."),
    "reward_accuracy": ("Reward accuracy", "Share of pairs whose better answer is preferred."),
    "train_loss": ("Training loss", ""),
    "valid_loss": ("Validation loss", ""),
    "learning_rate": ("Learning rate", ""),
}
_RETRIEVAL = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr", "untrained_recall_at_1")
_SHARES = frozenset(
    {
        *("accuracy", "macro_f1", "auroc", "exact", "exact_match", "reward_accuracy"),
        *_RETRIEVAL,
        *(f"image_to_text_{name}" for name in _RETRIEVAL),
        *("wer", "cer"),
    }
)


def title_of(metric: str) -> str:
    """Return what a metric is called; its own name where it is not known here."""
    name = metric.removeprefix(_VALIDATION)
    plain = _plain(metric)
    title = _WORDS.get(plain, (plain.replace("_", " "), ""))[0]
    title += name.removeprefix(plain).replace("_", " ")
    return title if name == metric else f"{title} (validation rows)"


def meaning_of(metric: str) -> str:
    """Return what a metric means, in a sentence or two; nothing where it is not known here."""
    return _WORDS.get(_plain(metric), ("", ""))[1]


def is_share(metric: str) -> bool:
    """Tell whether a metric is drawn on a scale from 0 to 1."""
    return _plain(metric) in _SHARES


def _plain(metric: str) -> str:
    """Return the name by which a metric is known here."""
    return _CUT.sub("", metric.removeprefix(_VALIDATION))


def interval_of(estimate: Mapping[str, Any]) -> str:
    """Return `0.97 to 0.99`, or a dash where no interval is known."""
    low, high = number(estimate.get("low")), number(estimate.get("high"))
    return "-" if low is None or high is None else f"{shown(low)} to {shown(high)}"


def percent(share: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * share:.4g} %"


def confidence_of(estimates: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how sure intervals are: `95 %`; `95 %` too where they do not say."""
    told = (number(found.get("confidence")) for found in estimates.values())
    return percent(next((one for one in told if one is not None), 0.95))


def headline(estimates: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the final test in one sentence."""
    sure = confidence_of(estimates)
    metric = next((one for one in (*_HEADLINES, *estimates) if one in estimates), None)
    if metric is None:
        return "This model has not been tested: the dataset kept no row for the test."
    found = estimates[metric]
    value = float(found["value"])
    said = percent(value) if is_share(metric) else shown(value)
    sentence = _HEADLINES.get(metric, f"{title_of(metric)} on {{rows}} rows: {{value}}.")
    told = sentence.format(value=said, rows=found.get("num_rows", "the"))
    return f"{told} The {sure} interval for rows like these is {interval_of(found)}."


_HEADLINES = {
    "accuracy": "Of {rows} rows that training never saw, {value} were answered right.",
    "wer": "In {rows} recordings that training never heard, {value} of the words were mistaken.",
    "exact_match": "Of {rows} questions that training never saw, {value} were answered right.",
    "recall_at_1": "Of {rows} texts that training never saw, {value} first found one that belongs "
    "to them.",
    "mae": "On {rows} rows that training never saw, the score was off by {value} on average.",
    "reward_accuracy": "Of {rows} pairs that training never saw, {value} got the better answer "
    "preferred.",
    "perplexity": "On {rows} texts that training never saw, the perplexity was {value}.",
    "validation_reward_accuracy": "Of {rows} validation pairs, {value} got the better answer "
    "preferred.",
    "validation_perplexity": "On {rows} validation texts, the perplexity was {value}.",
}
