"""Which evaluation was best so far, and whether to go on hoping for a better one."""

import math

import msgspec

from purvey.contracts.recipe_parts.looping import EarlyStoppingConfig


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation on the validation split.

    Args:
        score: What is maximised (macro F1, or minus the loss).
        loss: Mean loss in nats; decides between equal scores.
        metrics: Everything measured, by name, for events.
    """

    score: float
    loss: float
    metrics: dict[str, float] = {}


class Best(msgspec.Struct, frozen=True, kw_only=True):
    """The best evaluation and how many have come since that were no better."""

    step: int
    validation: Validation
    num_worse_since: int = 0


def is_better(new: Validation, best: Best | None) -> bool:
    """Tell whether the new weights should replace the best ones; those without numbers never do."""
    if not _is_finite(new):
        return False
    if best is None or not _is_finite(best.validation):
        return True
    old = best.validation
    return (new.score, -new.loss) > (old.score, -old.loss)


def advance(
    best: Best | None, new: Validation, *, step: int, config: EarlyStoppingConfig | None
) -> Best | None:
    """Return the best after one more evaluation; None as long as none was finite.

    Patience counts evaluations that did not raise the score by more than `min_delta`; a tie
    won on the loss replaces the weights without resetting the count.
    """
    if best is None or not _is_finite(best.validation):
        return Best(step=step, validation=new) if _is_finite(new) else best
    min_delta = 0.0 if config is None else config.min_delta
    is_progress = _is_finite(new) and new.score > best.validation.score + min_delta
    num_worse = 0 if is_progress else best.num_worse_since + 1
    if is_better(new, best):
        return Best(step=step, validation=new, num_worse_since=num_worse)
    return msgspec.structs.replace(best, num_worse_since=num_worse)


def should_stop(best: Best | None, config: EarlyStoppingConfig | None) -> bool:
    """Tell whether patience is exhausted."""
    return best is not None and config is not None and best.num_worse_since >= config.patience


def _is_finite(validation: Validation) -> bool:
    return math.isfinite(validation.score) and math.isfinite(validation.loss)
