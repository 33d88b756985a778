"""Learning rate as a pure function of the step."""

import math
from typing import assert_never

from purvey.contracts.recipe_parts.descent import ScheduleConfig


def rate_factor(step: int, *, total_steps: int, config: ScheduleConfig) -> float:
    """Return the factor in (0, 1] on the learning rate for optimizer step `step` (from 0).

    Linear warm-up over `warmup_fraction` of the run, then constant, or half a cosine from 1
    to `final_fraction` (Loshchilov and Hutter 2017, eq. 5, without restarts).
    """
    warmup_steps = round(total_steps * config.warmup_fraction)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    match config.name:
        case "constant":
            return 1.0
        case "cosine":
            done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
            half_cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2
            return config.final_fraction + (1 - config.final_fraction) * half_cosine
        case _:
            assert_never(config.name)
