"""Choosing tokens: greedy, tempered, cut to the nucleus, reproducible."""

import math

import pytest
import torch

from purvey.contracts.engine import Sampling
from purvey.engine.sampling import choose, logprobs, uniform
from purvey.errors import InternalError

PROBABILITIES = [0.5, 0.3, 0.15, 0.05]
LOGITS_V = torch.tensor(PROBABILITIES).log()


def draws(sampling: Sampling, count: int = 4_000) -> list[float]:
    chosen = [choose(LOGITS_V, sampling, position=position) for position in range(count)]
    return [chosen.count(token) / count for token in range(len(PROBABILITIES))]


def test_temperature_zero_takes_the_largest_and_the_lowest_id_among_equals() -> None:
    greedy = Sampling(temperature=0.0)
    assert choose(torch.tensor([0.0, 2.0, 1.0]), greedy, position=3) == 1
    assert choose(torch.tensor([0.0, 2.0, 2.0]), greedy, position=3) == 1


def test_tokens_come_with_their_probabilities() -> None:
    # 4 standard deviations of a frequency over 4,000 draws are at most 0.032.
    shares = draws(Sampling(temperature=1.0, seed=11))
    assert shares == pytest.approx(PROBABILITIES, abs=0.032)


def test_temperature_sharpens() -> None:
    squares = [p**2 for p in PROBABILITIES]
    expected = [square / sum(squares) for square in squares]
    assert draws(Sampling(temperature=0.5, seed=3)) == pytest.approx(expected, abs=0.032)


def test_top_p_keeps_the_fewest_tokens_whose_mass_reaches_it() -> None:
    shares = draws(Sampling(temperature=1.0, top_p=0.8, seed=5))
    assert shares == pytest.approx([0.625, 0.375, 0.0, 0.0], abs=0.032)
    assert shares[2:] == [0.0, 0.0]
    assert draws(Sampling(top_p=1e-9, seed=5), 50) == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("temperature", [1e-300, 1e-6])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    assert draws(Sampling(temperature=temperature, seed=1), 50) == [1.0, 0.0, 0.0, 0.0]


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    assert uniform(1, 2) == uniform(1, 2)
    assert len({uniform(seed, position) for seed in range(20) for position in range(20)}) == 400
    assert all(0 <= uniform(seed, 0) < 1 for seed in range(1_000))
    assert uniform(-1, 0) == uniform(2**64 - 1, 0)


def test_logits_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(InternalError, match="not finite"):
        choose(torch.tensor([0.0, math.nan]), Sampling(), position=0)


def test_logprobs_are_natural_and_untempered() -> None:
    (row,) = logprobs(LOGITS_V[None] + 3.0, [2], 2)
    assert row.chosen == pytest.approx(math.log(0.15), abs=1e-6)
    assert [token for token, _ in row.alternatives] == [0, 1]
    assert [p for _, p in row.alternatives] == pytest.approx([math.log(0.5), math.log(0.3)])


def test_no_more_alternatives_than_tokens() -> None:
    (row,) = logprobs(LOGITS_V[None], [0], 20)
    assert len(row.alternatives) == 4
