"""How fast this machine is: at products of matrices, and at a few steps of the run itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from purvey.contracts.clock import Clock
from purvey.contracts.recipe import TrainConfig
from purvey.train.learner import Learner
from purvey.train.optim import build_optimizer
from purvey.train.parallel.team import Alone, batches
from purvey.train.step import update

_SIDE = 768
_PRODUCTS = 4
_MOST_STEPS = 12


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Seconds of the steps that were tried, and of one evaluation.

    Args:
        fastest_s: Of a step but the first.
        slowest_s: Of a step; the first, which also prepares, does not count.
        evaluation_s: Of the validation rows at hand; 0 without any.
    """

    fastest_s: float
    slowest_s: float
    evaluation_s: float


def flops_per_s(clock: Clock, *, is_bf16: bool) -> float:
    """Multiply square matrices and return the operations of a second, two for each product."""
    left, right = torch.rand(2, _SIDE, _SIDE, dtype=torch.bfloat16 if is_bf16 else torch.float32)
    _ = left @ right  # the first one also prepares
    began = clock.monotonic()
    for _ in range(_PRODUCTS):
        _ = left @ right
    return 2 * _SIDE**3 * _PRODUCTS / max(clock.monotonic() - began, 1e-9)


def try_steps(
    learner: Learner, config: TrainConfig, *, rows: Sequence[int], patience_s: float, clock: Clock
) -> Tried:
    """Take steps on the same rows for a while, two at least, and evaluate once.

    Args:
        learner: What is trained; its weights are of no use afterwards.
        config: The recipe.
        rows: Of one step.
        patience_s: After so long no other step begins.
        clock: Where time comes from.

    Raises:
        DivergedError: The loss or gradient is not finite.
    """
    team = Alone(learner)
    learner.module.train()
    optimizer = build_optimizer(learner.module, config.optimizer)
    optimizer.set_rate(0.0)  # takes as long, and diverges no sooner
    parameters = [p for p in learner.module.parameters() if p.requires_grad]
    began, spans_s = clock.monotonic(), list[float]()
    while len(spans_s) < 2 or clock.monotonic() - began < patience_s:
        since = clock.monotonic()
        update(
            batches(team, rows, config.train),
            parameters,
            optimizer,
            clip_norm=config.train.clip_norm,
            step=len(spans_s),
        )
        spans_s.append(clock.monotonic() - since)
        if len(spans_s) == _MOST_STEPS:
            break
    since = clock.monotonic()
    learner.validate()
    return Tried(
        fastest_s=min(spans_s[1:]),
        slowest_s=max(spans_s[1:]),
        evaluation_s=clock.monotonic() - since,
    )
