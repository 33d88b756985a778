"""How many steps a run has, and its learning rate as a pure function of the step."""

import math
from dataclasses import dataclass
from typing import assert_never

from purvey.contracts.recipe_parts.descent import ScheduleConfig
from purvey.contracts.recipe_parts.looping import LoopConfig


@dataclass(frozen=True, kw_only=True)
class Span:
    """Steps of an epoch, of the run, and from one evaluation to the next."""

    epoch_steps: int
    total_steps: int
    eval_interval: int


def span_of(loop: LoopConfig, num_rows: int) -> Span:
    """Return how far a run goes over so many training rows, if nothing stops it early."""
    epoch_steps = math.ceil(num_rows / loop.batch_size)
    by_epochs = max(1, math.ceil(loop.epochs * epoch_steps))
    return Span(
        epoch_steps=epoch_steps,
        total_steps=min(by_epochs, loop.max_steps or by_epochs),
        eval_interval=max(1, epoch_steps // loop.evals_per_epoch),
    )


def rate_factor(step: int, *, total_steps: int, config: ScheduleConfig) -> float:
    """Return the factor in [0, 1] on the learning rate for optimizer step `step` (from 0).

    Linear warm-up over `warmup_fraction` of the run, then what is left of it by `config.name`:
    constant; half a cosine from 1 to `final_fraction` (Loshchilov and Hutter 2017, eq. 5,
    without restarts); a line between the same; or 1 until the last `decay_fraction` of the run
    (WSD, Hu et al. 2024), over which it falls as one minus the square root of the share that
    is done (Hagele et al. 2024, section 4).
    """
    warmup_steps = round(total_steps * config.warmup_fraction)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    match config.name:
        case "constant":
            return 1.0
        case "cosine":
            done = _share(step, since=warmup_steps, until=total_steps)
            return _between(config, (1 + math.cos(math.pi * done)) / 2)
        case "linear":
            return _between(config, 1 - _share(step, since=warmup_steps, until=total_steps))
        case "wsd":
            decay_steps = max(1, round(total_steps * config.decay_fraction))
            done = _share(step, since=total_steps - decay_steps, until=total_steps)
            return _between(config, 1 - math.sqrt(done))
        case _:
            assert_never(config.name)


def _share(step: int, *, since: int, until: int) -> float:
    return min(1.0, max(0.0, (step - since) / max(1, until - since)))


def _between(config: ScheduleConfig, height: float) -> float:
    """Return the factor at a height in [0, 1] above the final one."""
    return config.final_fraction + (1 - config.final_fraction) * height
