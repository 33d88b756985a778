"""The parts of the loop, one by one: schedule, optimizer, step, patience, meter."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from purvey.contracts.recipe_parts.descent import OptimizerConfig, ScheduleConfig
from purvey.contracts.recipe_parts.looping import EarlyStoppingConfig
from purvey.errors import DivergedError
from purvey.testing.clock import FakeClock
from purvey.train.chance import derived_seed, permutation, seed_torch
from purvey.train.early_stopping import Best, Validation, advance, is_better, should_stop
from purvey.train.optim import build_optimizer
from purvey.train.progress import Meter
from purvey.train.schedule import rate_factor
from purvey.train.step import BatchLoss, StepTaken, update


def test_the_rate_warms_up_then_falls_to_its_end() -> None:
    config = ScheduleConfig(name="cosine", warmup_fraction=0.1, final_fraction=0.2)
    rates = [rate_factor(step, total_steps=100, config=config) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[:11] == sorted(rates[:11])
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.6)  # halfway down, (1 + 0.2) / 2
    assert rates[100] == pytest.approx(0.2)


def test_a_line_falls_evenly_to_its_end() -> None:
    config = ScheduleConfig(name="linear", warmup_fraction=0.1, final_fraction=0.2)
    rates = [rate_factor(step, total_steps=100, config=config) for step in range(101)]
    assert max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.6)
    assert {round(a - b, 12) for a, b in pairwise(rates[10:])} == {round(0.8 / 90, 12)}
    assert rates[100] == pytest.approx(0.2)


def test_wsd_stays_at_the_peak_and_falls_at_the_end() -> None:
    config = ScheduleConfig(
        name="wsd", warmup_fraction=0.1, decay_fraction=0.25, final_fraction=0.0
    )
    rates = [rate_factor(step, total_steps=100, config=config) for step in range(101)]
    assert {*rates[10:76]} == {1.0}
    assert rates[75:] == sorted(set(rates[75:]), reverse=True)
    assert rates[84] == pytest.approx(0.4)  # after 9 of 25 steps: 1 - 3 / 5
    assert rates[100] == 0.0


def test_a_constant_rate_stays() -> None:
    config = ScheduleConfig(name="constant", warmup_fraction=0.0)
    assert {rate_factor(s, total_steps=9, config=config) for s in range(9)} == {1.0}


def test_seeds_differ_by_purpose_and_repeat() -> None:
    assert derived_seed(1, "order", 2) == derived_seed(1, "order", 2)
    assert len({derived_seed(s, n, e) for s in (0, 1) for n in "ab" for e in (0, 1)}) == 8
    assert sorted(permutation(50, seed=3, epoch=0)) == list(range(50))
    assert list(permutation(50, seed=3, epoch=0)) != list(permutation(50, seed=3, epoch=1))
    seed_torch(9, "step", 4)
    first = torch.rand(3)
    seed_torch(9, "step", 4)
    assert torch.equal(first, torch.rand(3))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def loss_of(module: nn.Module, factor: float = 1.0) -> BatchLoss:
    return BatchLoss(loss=module(torch.ones(2, 3)).square().sum() * factor, num_rows=2)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_optimizer_state_survives_as_tensors(name: str) -> None:
    config = OptimizerConfig.model_validate({"name": name, "weight_decay": 0.1})
    one, two = network(), network()
    first, second = build_optimizer(one, config), build_optimizer(two, config)
    for step in range(3):
        update([loss_of(one)], list(one.parameters()), first, clip_norm=None, step=step)
    assert {path.rpartition(".")[0] for path in first.tensors()} == set(one.state_dict())
    two.load_state_dict(one.state_dict())
    second.restore({k: v.clone() for k, v in first.tensors().items()})
    for module, optimizer in ((one, first), (two, second)):
        update([loss_of(module)], list(module.parameters()), optimizer, clip_norm=None, step=3)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_decay_falls_on_matrices_only() -> None:
    module = network()
    optimizer = build_optimizer(module, OptimizerConfig(name="sgd", weight_decay=0.5))
    by_decay = {g.weight_decay: [p.dim() for p in g.parameters] for g in optimizer.groups}
    assert by_decay == {0.5: [2, 2], 0.0: [1, 1]}
    optimizer.set_rate(0.125)
    assert {group.rate for group in optimizer.groups} == {0.125}


def test_sgd_with_momentum_follows_its_formula() -> None:
    weight = nn.Parameter(torch.tensor([[1.0]]))
    holder = nn.Module()
    holder.weight = weight
    optimizer = build_optimizer(
        holder, OptimizerConfig(name="sgd", learning_rate=0.1, momentum=0.5)
    )
    expected, velocity = 1.0, 0.0
    for step in range(3):
        velocity = 0.5 * velocity + 2 * expected  # gradient of w^2
        expected -= 0.1 * velocity
        batch = BatchLoss(loss=weight.square().sum(), num_rows=1)
        update([batch], [weight], optimizer, clip_norm=None, step=step)
        assert weight.item() == pytest.approx(expected, rel=1e-6)


def test_clipping_bounds_the_gradient_and_nothing_less() -> None:
    for factor, is_clipped in ((100.0, True), (1e-4, False)):
        module = network()
        optimizer = build_optimizer(module, OptimizerConfig(name="sgd", learning_rate=1e-9))
        parameters = list(module.parameters())
        update([loss_of(module, factor)], parameters, optimizer, clip_norm=1.0, step=0)
        norm = float(
            torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        )
        assert (norm == pytest.approx(1.0, rel=1e-4)) is is_clipped
        assert norm <= 1.0 + 1e-4


@pytest.mark.row("CRA-25")
@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_what_is_not_finite_never_reaches_the_weights(broken: str) -> None:
    module = network()
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = build_optimizer(module, OptimizerConfig(name="sgd"))
    output = module(torch.ones(2, 3)).sum()
    loss = output * math.nan if broken == "loss" else (output - output.detach()).sqrt()
    with pytest.raises(DivergedError, match=f"{broken} is.* at step 7") as caught:
        update(
            [loss_of(module), BatchLoss(loss=loss, num_rows=2)],
            list(module.parameters()),
            optimizer,
            clip_norm=1.0,
            step=7,
        )
    assert "learning rate" in caught.value.hint
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def seen(*scores: tuple[float, float], patience: int = 2, min_delta: float = 0.0) -> list[Any]:
    config = EarlyStoppingConfig(patience=patience, min_delta=min_delta)
    best: Best | None = None
    told = []
    for step, (score, loss) in enumerate(scores):
        validation = Validation(score=score, loss=loss)
        replaced = is_better(validation, best)
        best = advance(best, validation, step=step, config=config)
        assert best is not None
        told.append((replaced, best.step, should_stop(best, config)))
    return told


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_an_evaluation_that_is_no_number_is_never_the_best(broken: float) -> None:
    config = EarlyStoppingConfig(patience=1)
    no_number = Validation(score=broken, loss=0.5)
    no_loss = Validation(score=0.9, loss=broken)
    finite = Validation(score=0.1, loss=0.5)
    for bad in (no_number, no_loss):
        assert not is_better(bad, None)
        assert advance(None, bad, step=1, config=config) is None
        best = Best(step=1, validation=finite)
        assert not is_better(bad, best)
        after = advance(best, bad, step=2, config=config)
        assert after == Best(step=1, validation=finite, num_worse_since=1)
        assert should_stop(after, config)
        stuck = Best(step=1, validation=bad, num_worse_since=3)
        assert is_better(finite, stuck)
        assert advance(stuck, finite, step=2, config=config) == Best(step=2, validation=finite)


def test_patience_counts_evaluations_without_progress() -> None:
    assert seen((0.5, 1), (0.6, 1), (0.6, 2), (0.55, 1)) == [
        (True, 0, False),
        (True, 1, False),
        (False, 1, False),
        (False, 1, True),
    ]


def test_a_tie_with_less_loss_is_kept_but_is_no_progress() -> None:
    assert seen((0.6, 1.0), (0.6, 0.9), (0.6, 0.8)) == [
        (True, 0, False),
        (True, 1, False),
        (True, 2, True),
    ]


def test_progress_must_exceed_min_delta() -> None:
    assert [stop for *_, stop in seen((0.5, 1), (0.55, 1), (0.58, 1), min_delta=0.1)] == [
        False,
        False,
        True,
    ]
    assert should_stop(None, EarlyStoppingConfig()) is False


def test_the_meter_tells_pace_and_mean_loss() -> None:
    clock = FakeClock()
    meter = Meter(clock, first_step=10, total_steps=30)
    for loss in (4.0, 2.0):
        meter.add(StepTaken(loss=loss, weight=100.0, num_rows=8, num_tokens=100))
        clock.advance(0.5)
    assert meter.is_due()
    data = meter.read(12, rate=0.1)
    assert data == {
        "step": 12,
        "total_steps": 30,
        "learning_rate": 0.1,
        "rows_per_s": 16.0,
        "tokens_per_s": 200.0,
        "train_loss": 3.0,
        "seconds_left": 9.0,
    }
    assert not meter.is_due()
    assert "train_loss" not in meter.read(12, rate=0.1)
