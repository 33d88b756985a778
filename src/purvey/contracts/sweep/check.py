"""What is wrong with a sweep, found before any trial: its fields, their values, its budget."""

import math

from purvey.contracts.recipe import TrainConfig, parse_recipe
from purvey.contracts.sweep.config import NOT_VALIDATED, SweepConfig, trial_values
from purvey.contracts.sweep.space import num_points, samples
from purvey.errors import InvalidValueError

FIXED = ("task", "name", "dataset", "model.base")
"""What all trials of a sweep have in common."""
_PACED = ("train.evals_per_epoch",)


def check_sweep(config: SweepConfig) -> list[TrainConfig]:
    """Check a sweep; a few hundred recipes are parsed, so call it off the event loop.

    Returns:
        The recipes that were tried: values at the ends of what the fields may have.

    Raises:
        InvalidValueError: Names the first field at fault, a misspelt one with the nearest name,
            and for a budget that cannot hold the trials the arithmetic.
    """
    parse_recipe(trial_values(config, {}))
    if config.metric in NOT_VALIDATED:
        raise InvalidValueError(
            f"{config.metric!r} is not measured on the validation split.",
            param="metric",
            hint="Name one that is, as valid_loss.",
        )
    _check_fields(config)
    tried = [parse_recipe(trial_values(config, p), at="space") for p in samples(config.space)]
    _check_numbers(config)
    _check_minutes(config, tried)
    return tried


def _check_fields(config: SweepConfig) -> None:
    for name in config.space:
        if name in FIXED or name == "model":
            raise InvalidValueError(
                f"{name!r} is the same for all trials of a sweep.",
                param=f"space.{name}",
                hint="Set it in the recipe, and make a sweep for each of its values.",
            )
        within = next((other for other in config.space if name.startswith(f"{other}.")), None)
        if within is not None:
            raise InvalidValueError(
                f"{name!r} is a part of {within!r}, which is searched too.", param=f"space.{name}"
            )
        if name in _PACED and config.pruner != "none":
            raise InvalidValueError(
                f"with {name!r} among the fields, the evaluations of two trials do not compare.",
                param="pruner",
                hint="Set pruner to 'none', or leave the field out.",
            )


def _check_numbers(config: SweepConfig) -> None:
    if config.parallel > config.max_trials:
        raise InvalidValueError(
            f"{config.parallel} trials at once are more than the {config.max_trials} there are.",
            param="parallel",
        )
    points = num_points(config.space)
    if points < config.max_trials:
        counts = " x ".join(f"{d.num_points:.0f}" for d in config.space.values())
        raise InvalidValueError(
            f"the space has {counts} = {points:.0f} points, fewer than {config.max_trials} trials.",
            param="max_trials",
            hint=f"Set it to {points:.0f} at most, or widen the space.",
        )


def _check_minutes(config: SweepConfig, tried: list[TrainConfig]) -> None:
    limits = [recipe.train.max_minutes for recipe in tried]
    if config.max_minutes is None or any(limit is None for limit in limits):
        return
    each = max(limit for limit in limits if limit is not None)
    rounds = math.ceil(config.max_trials / config.parallel)
    if rounds * each <= config.max_minutes:
        return
    fitting = int(config.max_minutes / each) * config.parallel
    hint = f"Lower max_trials to {fitting}, or" if fitting else "Lower train.max_minutes, or"
    raise InvalidValueError(
        f"{config.max_trials} trials of up to {each:g} minutes, {config.parallel} at a time, take "
        f"up to {rounds} x {each:g} = {rounds * each:g} minutes; max_minutes is "
        f"{config.max_minutes:g}.",
        param="max_minutes",
        hint=f"{hint} raise max_minutes to {rounds * each:g}.",
    )
