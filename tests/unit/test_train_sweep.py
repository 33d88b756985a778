"""What a sweep tries and prunes: from its history alone, as Optuna's live study does."""

import math
from typing import Any

import optuna
import pytest

from purvey.contracts.sweep.config import Direction, SweepConfig
from purvey.contracts.sweep.messages import Trial, TrialState
from purvey.train.sweep import num_startup_trials, should_prune, suggest

RATE = {"low": 1e-5, "high": 1.0, "log": True}


def config(**changes: Any) -> SweepConfig:
    values = {
        "recipe": {"task": "text-classification"},
        "space": {"optimizer.learning_rate": RATE},
        "metric": "macro_f1",
        "direction": "maximize",
        "max_trials": 12,
    }
    return SweepConfig.model_validate(values | changes)


def f1(parameters: dict[str, Any]) -> float:
    """A planted optimum at a rate of 0.01."""
    return 1 - abs(math.log10(parameters["optimizer.learning_rate"]) + 2) / 5


def done(number: int, parameters: dict[str, Any], value: float, **more: Any) -> Trial:
    return Trial(number=number, parameters=parameters, state="complete", value=value, **more)


def searched(config: SweepConfig, num_trials: int) -> list[Trial]:
    trials: list[Trial] = []
    for number in range(num_trials):
        parameters = suggest(config, trials)
        trials.append(done(number, parameters, f1(parameters)))
    return trials


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_optimum_is_found_in_twelve_trials(seed: int) -> None:
    trials = searched(config(seed=seed), 12)
    best = max(trials, key=lambda trial: trial.value or 0.0)
    # A factor of 3 either way is a fifth of the range, which twelve even draws miss 1 time in 12.
    assert 0.01 / 3 < best.parameters["optimizer.learning_rate"] < 0.03


def test_the_same_history_gives_the_same_trial_and_another_seed_another() -> None:
    trials = searched(config(), 6)
    assert suggest(config(), trials) == suggest(config(), trials)
    assert suggest(config(seed=1), trials) != suggest(config(), trials)
    assert suggest(config(), trials[:5]) == trials[5].parameters


def test_minimizing_is_maximizing_of_the_negative() -> None:
    up = searched(config(), 8)
    down = [done(t.number, t.parameters, -(t.value or 0.0)) for t in up]
    assert suggest(config(direction="minimize"), down) == suggest(config(), up)


def test_a_finite_space_is_visited_without_a_repetition() -> None:
    space = {
        "train.batch_size": {"values": [16, 32]},
        "model.hyperparameters.width": {"low": 8, "high": 24, "step": 8},
        "train.early_stopping": {"values": [None, {"patience": 3}]},
    }
    small = config(space=space)
    trials: list[Trial] = []
    for number in range(12):
        parameters = suggest(small, trials)
        assert parameters not in [trial.parameters for trial in trials]
        assert parameters["model.hyperparameters.width"] in {8, 16, 24}
        trials.append(done(number, parameters, float(parameters["train.batch_size"])))


def test_trials_of_every_state_make_a_history() -> None:
    states: tuple[TrialState, ...] = (
        "running",
        "complete",
        "pruned",
        "stopped",
        "cancelled",
        "failed",
    )
    trials = [
        Trial(
            number=number,
            parameters={"optimizer.learning_rate": 10.0**-number},
            state=state,
            evaluations=(0.5, math.nan),
            value=0.5 if state == "complete" else None,
        )
        for number, state in enumerate(states)
    ]
    assert 1e-5 <= suggest(config(parallel=2), trials)["optimizer.learning_rate"] <= 1


CURVES = [
    (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.8, 0.9, 0.9),
    (0.2, 0.5, 0.6, 0.7, 0.8, 0.8, 0.9, 0.9, 0.9),
    (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
    (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1),
    (0.6, 0.7, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2),
    (0.7, 0.7, 0.8, 0.8, 0.9, 0.9, 0.9, 0.9, 0.95),
    (0.4, 0.5, math.nan, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7),
    (0.65, 0.7, 0.75, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7),
]
LIVE: dict[str, Any] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=num_startup_trials(config())),
    "successive_halving": lambda: optuna.pruners.SuccessiveHalvingPruner(
        min_resource=1, reduction_factor=3
    ),
}


def live_lengths(pruner: str, direction: Direction) -> list[int]:
    """How many evaluations each curve comes to in one live study of Optuna."""
    study = optuna.create_study(direction=direction, pruner=LIVE[pruner]())
    lengths = []
    for curve in CURVES:
        trial = study.ask()
        for step, value in enumerate(curve, start=1):
            trial.report(value, step)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, curve[-1])
        lengths.append(step)
    return lengths


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("pruner", list(LIVE))
def test_pruning_from_history_is_what_a_live_study_does(pruner: str, direction: Direction) -> None:
    asked = config(pruner=pruner, direction=direction)
    trials: list[Trial] = []
    lengths = []
    for number, curve in enumerate(CURVES):
        trial = Trial(number=number, parameters={"optimizer.learning_rate": 0.1})
        for length in range(1, len(curve) + 1):
            trial = Trial(number=number, parameters=trial.parameters, evaluations=curve[:length])
            if should_prune(asked, [*trials, trial], number):
                ended: dict[str, Any] = {"state": "pruned"}
                break
        else:
            ended = {"state": "complete", "value": curve[-1]}
        lengths.append(len(trial.evaluations))
        trials.append(
            Trial(
                number=number,
                parameters=trial.parameters,
                evaluations=trial.evaluations,
                **ended,
            )
        )
    assert lengths == live_lengths(pruner, direction)
    assert 9 in lengths
    assert min(lengths) < 9, "nothing was pruned, so nothing was compared"


def test_nothing_is_pruned_where_nobody_asks_or_nothing_is_known() -> None:
    trials = [
        done(n, {"optimizer.learning_rate": 0.1}, c[-1], evaluations=c)
        for n, c in enumerate(CURVES[:3])
    ]
    fresh = Trial(number=3, parameters={"optimizer.learning_rate": 0.1})
    assert not should_prune(config(), [*trials, fresh], 3)
    poor = Trial(number=3, parameters=fresh.parameters, evaluations=(0.0,))
    assert should_prune(config(), [*trials, poor], 3)
    assert not should_prune(config(pruner="none"), [*trials, poor], 3)
