"""A sweep as it is asked for, resolved, and what each of its trials is made of."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from purvey.contracts.defaults import with_recipe_defaults
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ClassifierTask, TrainedTask
from purvey.contracts.recipe_parts.part import Name, Part
from purvey.contracts.sweep.space import Space, placed

Direction = Literal["minimize", "maximize"]
Pruner = Literal["none", "median", "successive_halving"]
Keep = Literal["best", "all"]
MaxTrials = Annotated[int, Field(ge=1, le=LIMITS.sweep_trials)]
MaxMinutes = Annotated[float, Field(gt=0, le=60 * 24 * 30, allow_inf_nan=False)]
Parallel = Annotated[int, Field(ge=1, le=LIMITS.sweep_parallel)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
NOT_VALIDATED = frozenset(
    {"step", "total_steps", "epoch", "learning_rate", "rows_per_s", "tokens_per_s", "seconds_left"}
    | {"train_loss"}
)
"""What events tell beside what is measured on the validation split."""
_LESS_IS_BETTER = ("loss", "error", "perplexity", "wer", "cer", "mae", "mse", "brier")


class SweepConfig(Part):
    """The record of a sweep: a recipe, the fields that are searched, and the budget."""

    recipe: dict[str, Any]  # JSON values of a recipe, as given
    """What every trial begins with; defaults are filled in after its parameters."""
    space: Space
    """Recipe field to its range or values."""
    metric: Name
    """Measured on the validation split; what trials are compared by."""
    direction: Direction
    """Whether less of it is better, or more."""
    max_trials: MaxTrials
    """Trials that begin at most."""
    max_minutes: MaxMinutes | None = None
    """Minutes from the sweep's start, by the clock, after which no trial goes on."""
    parallel: Parallel = 1
    """Trials that have not ended, at most."""
    pruner: Pruner = "median"
    """Which rule ends a trial early."""
    keep: Keep = "best"
    """Which trials' models are registered."""
    seed: Seed = 0
    """Of the search; trials have the recipe's."""

    def digest(self) -> str:
        """Return the hex SHA-256 of its canonical JSON."""
        return digest_of(self.model_dump(mode="json"))


def digest_of(values: Mapping[str, Any]) -> str:
    """Return the hex SHA-256 of the canonical JSON of some values."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def trial_values(config: SweepConfig, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of a trial, over the defaults of its task."""
    return with_recipe_defaults(placed(config.recipe, parameters))


def default_metric(task: TrainedTask) -> str:
    """Return what trials are compared by where nobody says: what the best weights are kept by."""
    return "macro_f1" if task in get_args(ClassifierTask) else "valid_loss"


def default_direction(metric: str) -> Direction:
    """Return which way a metric is better, by the last word of its name."""
    return "minimize" if metric.rsplit("_", 1)[-1] in _LESS_IS_BETTER else "maximize"
