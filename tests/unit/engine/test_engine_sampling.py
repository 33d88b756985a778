"""Choosing tokens: greedy, tempered, cut to the nucleus, reproducible."""

import math

import pytest
import torch

from purvey.contracts.sampling import Sampling
from purvey.engine.logits import HostLogits, first_best
from purvey.engine.sampling import Adjustment, choose, logprobs, uniform
from purvey.errors import InternalError, InvalidValueError

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


def test_top_k_keeps_the_likeliest_and_what_equals_the_last() -> None:
    shares = draws(Sampling(top_k=2, seed=5))
    assert shares == pytest.approx([0.625, 0.375, 0.0, 0.0], abs=0.032)
    assert shares[2:] == [0.0, 0.0]
    tied_V = torch.tensor([0.25, 0.25, 0.25, 0.25]).log()
    chosen = {choose(tied_V, Sampling(top_k=1), position=i) for i in range(100)}
    assert chosen == {0, 1, 2, 3}
    assert draws(Sampling(top_k=4, seed=7), 50) == draws(Sampling(seed=7), 50)


def test_min_p_keeps_a_share_of_the_likeliest() -> None:
    shares = draws(Sampling(min_p=0.5, seed=5))
    assert shares == pytest.approx([0.625, 0.375, 0.0, 0.0], abs=0.032)
    assert draws(Sampling(min_p=1.0, seed=5), 50) == [1.0, 0.0, 0.0, 0.0]


def test_cuts_are_those_of_transformers() -> None:
    generator = torch.Generator().manual_seed(3)
    for case in range(8):
        logits_V = torch.randn(50, generator=generator) * 3
        sampling = Sampling(
            temperature=0.7, top_k=(0, 12)[case % 2], top_p=(1.0, 0.8)[case // 2 % 2],
            min_p=(0.0, 0.05)[case // 4 % 2], seed=case,
        )  # fmt: skip
        expected_V = _cut_by_transformers(logits_V / 0.7, sampling)
        chosen = {choose(logits_V, sampling, position=i) for i in range(200)}
        kept = {i for i, p in enumerate(expected_V.tolist()) if p > 0}
        likely = {i for i, p in enumerate(expected_V.tolist()) if p > 0.08}
        assert likely <= chosen <= kept


def _cut_by_transformers(logits_V: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    from transformers.generation import logits_process as theirs

    ids, scores = torch.zeros(1, 1, dtype=torch.int64), logits_V[None].double()
    if sampling.top_k:
        scores = theirs.TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p < 1:
        scores = theirs.TopPLogitsWarper(sampling.top_p)(ids, scores)
    if sampling.min_p:
        scores = theirs.MinPLogitsWarper(sampling.min_p)(ids, scores)
    found: torch.Tensor = scores.softmax(-1)[0]
    return found


def test_repetition_penalty_is_that_of_transformers() -> None:
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    logits_V = torch.randn(40, generator=torch.Generator().manual_seed(5))
    prompt, output = [3, 7, 7, 39], [1, 3, *range(10, 30), 1]
    for factor in (0.5, 1.3):
        adjustment = Adjustment(Sampling(repetition_penalty=factor), prompt)
        for token_id in output:
            adjustment.note(token_id)
        ids = torch.tensor([[*prompt, *output]])
        expected = RepetitionPenaltyLogitsProcessor(factor)(ids, logits_V[None].clone())[0]
        assert torch.equal(adjustment.apply(logits_V), expected)


def test_penalties_count_the_output_and_nothing_else() -> None:
    """OpenAI's formula: logit - count * frequency - (count > 0) * presence."""
    sampling = Sampling(frequency_penalty=0.5, presence_penalty=-1.5)
    logits_V = torch.zeros(200)
    adjustment = Adjustment(sampling, [5, 6])
    output = [9] * 3 + [1] + list(range(100, 190))  # more ids than it begins with room for
    for token_id in output:
        adjustment.note(token_id)
    counts_V = torch.bincount(torch.tensor(output), minlength=200).float()
    assert torch.equal(adjustment.apply(logits_V), 1.5 * (counts_V > 0) - 0.5 * counts_V)
    assert not logits_V.any(), "the model's own logits are left alone"


def test_a_bias_is_added_and_minus_100_bans() -> None:
    bias = ((2, 60.0), (1, -100.0), (0, -99.0))
    changed_V = Adjustment(Sampling(logit_bias=bias), []).apply(torch.tensor([1.0, 1e9, 1.0]))
    assert changed_V.tolist() == [-98.0, -math.inf, 61.0]


def test_nothing_is_changed_where_nothing_is_asked() -> None:
    assert not Adjustment.is_needed(Sampling(temperature=0.3, top_k=4, min_p=0.1, seed=3))
    assert Adjustment.is_needed(Sampling(repetition_penalty=1.1))


def test_when_all_are_banned_the_field_is_named() -> None:
    sampling = Sampling(logit_bias=((0, -100.0), (1, -100.0)))
    with pytest.raises(InvalidValueError, match="rule all of them out") as caught:
        choose(torch.tensor([-math.inf, -math.inf]), sampling, position=0)
    assert caught.value.param == "logit_bias"


@pytest.mark.parametrize("size", [1, 31, 331, 512, 1_000, 32_000])
def test_the_first_of_equals_is_found_in_any_vocabulary(size: int) -> None:
    """Vocabularies that are looked through in pieces, and ones that are not."""
    for first in {0, size // 3, size - 1}:
        logits_V = torch.full((size,), -5.0)
        logits_V[first:] = 2.0
        assert first_best(logits_V) == first
        assert HostLogits(logits_V[None]).best() == (first, 2.0)
        logits_V[first] = float("nan")
        assert first_best(logits_V) == first
        assert math.isnan(HostLogits(logits_V[None]).best()[1])
    assert first_best(torch.full((size,), -math.inf)) == 0
