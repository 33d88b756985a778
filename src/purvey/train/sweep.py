"""What a sweep tries next, and which of its trials it gives up: pure functions of its history.

Optuna decides: the tree-structured Parzen estimator (Bergstra et al. 2011) proposes, the median
rule or asynchronous successive halving (Li et al. 2018) prunes. Its study is built anew for every
decision from the trials there are, and its chance from the sweep's seed and the trial's number.
So nothing is kept between decisions, and whoever knows the same trials decides the same.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from purvey.contracts.sweep.config import SweepConfig
from purvey.contracts.sweep.messages import Trial
from purvey.contracts.sweep.space import Choices, Dimension
from purvey.train.chance import derived_seed

REDUCTION = 3
"""Of the trials that reach a rung of successive halving, one in so many goes on."""
_STATES = {
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
}
_TRIES = 50
optuna.logging.set_verbosity(optuna.logging.WARNING)


def num_startup_trials(config: SweepConfig) -> int:
    """Return how many trials are drawn evenly, and never pruned, before there is a history."""
    return min(10, max(2, config.max_trials // 4))


def suggest(config: SweepConfig, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the parameters of the next trial, JSON values by recipe field.

    They are none that a trial has had: while TPE proposes such ones it is asked again, and when it
    insists, an even draw decides.

    Args:
        config: The sweep.
        trials: All of its trials so far, by number.
    """
    known = {_key(trial.parameters) for trial in trials}
    distributions = {name: _distribution(dim) for name, dim in config.space.items()}
    parameters: dict[str, Any] = {}
    for attempt in range(_TRIES):
        seed = derived_seed(config.seed, "trial", len(trials), attempt) % 2**32
        study = _study(config, trials, _sampler(config, seed, is_even=2 * attempt >= _TRIES))
        drawn = study.ask(distributions).params
        parameters = {name: _value(dim, drawn[name]) for name, dim in config.space.items()}
        if _key(parameters) not in known:
            break
    return parameters


def should_prune(config: SweepConfig, trials: Sequence[Trial], number: int) -> bool:
    """Tell whether a trial should be given up, by its newest evaluation.

    Args:
        config: The sweep.
        trials: All of its trials so far, by number.
        number: The trial, which runs and has an evaluation.
    """
    if config.pruner == "none" or not trials[number].evaluations:
        return False
    study = _study(config, trials, _sampler(config, 0, is_even=True), judged=number)
    pruner: optuna.pruners.BasePruner = (
        optuna.pruners.MedianPruner(n_startup_trials=num_startup_trials(config))
        if config.pruner == "median"
        else optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
    )
    return bool(pruner.prune(study, study.get_trials(deepcopy=False)[number]))


def _study(
    config: SweepConfig,
    trials: Sequence[Trial],
    sampler: optuna.samplers.BaseSampler,
    *,
    judged: int | None = None,
) -> optuna.Study:
    study = optuna.create_study(sampler=sampler, direction=config.direction)
    study.add_trials([_frozen(config, t, is_judged=t.number == judged) for t in trials])
    return study


def _frozen(config: SweepConfig, trial: Trial, *, is_judged: bool) -> FrozenTrial:
    values = dict(enumerate(trial.evaluations, start=1))
    past = len(values) - 1 if is_judged else len(values)
    return create_trial(
        state=_STATES.get(trial.state, TrialState.FAIL),
        value=trial.value,
        params={n: _drawn(dim, trial.parameters[n]) for n, dim in config.space.items()},
        distributions={n: _distribution(dim) for n, dim in config.space.items()},
        intermediate_values=values,
        system_attrs=_rungs(trial.evaluations[:past]),
    )


def _rungs(evaluations: Sequence[float]) -> dict[str, Any]:
    """Return how Optuna remembers the rungs of successive halving that a trial has reached."""
    reached, rung = {}, 0
    while REDUCTION**rung <= len(evaluations):
        reached[f"completed_rung_{rung}"] = evaluations[REDUCTION**rung - 1]
        rung += 1
    return reached


def _sampler(config: SweepConfig, seed: int, *, is_even: bool) -> optuna.samplers.BaseSampler:
    if is_even:
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        n_startup_trials=num_startup_trials(config),
        constant_liar=True,  # trials that run count, as bad ones
        seed=seed,
    )


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choices):
        return CategoricalDistribution(tuple(range(len(dimension.values))))
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.is_whole:
        return IntDistribution(int(low), int(high), log=dimension.log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=dimension.log, step=step)


def _value(dimension: Dimension, drawn: Any) -> Any:  # noqa: ANN401 (JSON values)
    return dimension.values[drawn] if isinstance(dimension, Choices) else drawn


def _drawn(dimension: Dimension, value: Any) -> Any:  # noqa: ANN401 (JSON values)
    if not isinstance(dimension, Choices):
        return value
    return [_key({"": v}) for v in dimension.values].index(_key({"": value}))


def _key(parameters: Mapping[str, Any]) -> str:
    return json.dumps(parameters, sort_keys=True)
