"""Preferences: the loss is the paper's, the reference is the model before its first step."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.train.preference import (
    PairRow,
    PreferenceLearner,
    dpo_losses,
    log_ratios,
    margin_losses,
    reward_margins,
)
from purvey.train.token_rows import TokenRow, token_row

VOCABULARY = 23
BETA = 0.25


def decoder(seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(
        DecoderConfig(
            vocabulary_size=VOCABULARY,
            hidden_size=16,
            mlp_size=32,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            head_size=8,
            context_tokens=64,
            initializer_std=0.3,
        )
    ).eval()


def pairs(count: int, seed: int = 0) -> list[PairRow]:
    generator = np.random.default_rng(seed)

    def answered(prompt: list[int]) -> TokenRow:
        answer = generator.integers(0, VOCABULARY, int(generator.integers(1, 6))).tolist()
        is_target = [False] * len(prompt) + [True] * len(answer)
        return token_row([*prompt, *answer], is_target, max_tokens=99)

    made = []
    for _ in range(count):
        prompt = generator.integers(0, VOCABULARY, int(generator.integers(1, 9))).tolist()
        made.append(PairRow(preferred=answered(prompt), rejected=answered(prompt)))
    return made


def log_prob(model: Decoder, row: TokenRow) -> float:
    """Sum the answer's log-probabilities, position by position, from the whole logits."""
    ids = row.ids.astype(np.int64)
    with torch.no_grad():
        log_probs = model(torch.from_numpy(ids[None, :-1]))[0].double().log_softmax(-1)
    return sum(float(log_probs[i, ids[i + 1]]) for i in range(len(ids) - 1) if row.is_target[i + 1])


def by_hand(policy: Decoder, reference: Decoder, pair: PairRow) -> float:
    """Compute equation 7 of Rafailov et al. 2023 for one pair, in float64."""
    better = log_prob(policy, pair.preferred) - log_prob(reference, pair.preferred)
    worse = log_prob(policy, pair.rejected) - log_prob(reference, pair.rejected)
    return -math.log(1 / (1 + math.exp(-BETA * (better - worse))))


def test_the_loss_of_fixed_ratios_is_the_formula() -> None:
    ratios = torch.tensor([0.0, 2.0, -3.0, 40.0])
    expected = [-math.log(1 / (1 + math.exp(-BETA * r))) for r in ratios.tolist()]
    assert dpo_losses(ratios, beta=BETA).tolist() == pytest.approx(expected, rel=1e-6)
    assert margin_losses(BETA * ratios.double().numpy()) == pytest.approx(expected, rel=1e-6)
    assert dpo_losses(torch.tensor([-1e4]), beta=1.0).item() == pytest.approx(1e4)  # no overflow


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_learners_loss_is_the_formula_on_whole_logits(is_packed: bool, weight: float) -> None:
    policy, chosen = decoder(), pairs(7)
    learner = PreferenceLearner(
        policy, chosen, [], beta=BETA, seed=0, likelihood_weight=weight, is_packed=is_packed
    )
    if not weight:
        at_start = float(learner.loss(range(7)).loss.detach())
        assert at_start == pytest.approx(math.log(2), abs=1e-6)
    policy.load_state_dict(decoder(seed=1).state_dict())  # as if it had been trained
    batch = learner.loss(range(1, 6))
    expected = np.mean(
        [
            by_hand(policy, decoder(), pair)
            - weight * log_prob(policy, pair.preferred) / pair.preferred.num_targets
            for pair in chosen[1:6]
        ]
    )
    # Log-probabilities near -60 of float32 logits: absolute errors near 1e-5.
    assert float(batch.loss.detach()) == pytest.approx(expected, abs=1e-4)
    assert (batch.num_rows, batch.total_weight) == (5, 5.0)
    assert batch.num_tokens == sum(pair.num_targets for pair in chosen[1:6])


def test_the_gradient_raises_the_better_answer_and_lowers_the_worse() -> None:
    policy, chosen = decoder(), pairs(4)
    learner = PreferenceLearner(policy, chosen, [], beta=BETA, seed=0)
    before = log_ratios(policy, chosen)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        torch.autograd.backward(learner.loss(range(4)).loss)
        optimizer.step()
    assert (log_ratios(policy, chosen) > before).all()


def test_evaluation_in_many_passes_is_that_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, chosen = decoder(), pairs(30)
    whole = log_ratios(model, chosen)
    monkeypatch.setattr("purvey.train.language._EVAL_TOKENS", 40)
    np.testing.assert_allclose(log_ratios(model, chosen), whole, atol=1e-4)
    expected = [log_prob(model, p.preferred) - log_prob(model, p.rejected) for p in chosen]
    np.testing.assert_allclose(whole, expected, atol=1e-4)


def test_validation_tells_margin_and_accuracy_of_the_rewards() -> None:
    policy, chosen = decoder(), pairs(6)
    learner = PreferenceLearner(policy, chosen, chosen, beta=BETA, seed=0)
    start = learner.validate()
    assert start is not None
    assert start.metrics["reward_margin"] == pytest.approx(0, abs=1e-6)
    policy.load_state_dict(decoder(seed=1).state_dict())
    found = learner.validate()
    assert found is not None
    margins = reward_margins(policy, chosen, log_ratios(decoder(), chosen), beta=BETA)
    assert found.metrics == {
        "valid_loss": pytest.approx(np.mean([by_hand(policy, decoder(), p) for p in chosen]), 1e-4),
        "reward_margin": pytest.approx(margins.mean()),
        "reward_accuracy": pytest.approx((margins > 0).mean()),
    }
    assert found.score == -found.loss
    assert PreferenceLearner(policy, chosen, [], beta=BETA, seed=0).validate() is None


def test_an_epoch_visits_every_pair_once() -> None:
    learner = PreferenceLearner(decoder(), pairs(31), [], beta=BETA, seed=3)
    orders = [list(learner.order(epoch)) for epoch in (0, 0, 1)]
    assert [sorted(order) for order in orders] == [list(range(31))] * 3
    assert orders[0] == orders[1] != orders[2]


def test_dropout_is_off_while_the_reference_is_computed() -> None:
    model = decoder()
    model.layers[0] = Noisy(model.layers[0])
    chosen = pairs(5)
    model.train()
    learner = PreferenceLearner(model, chosen, [], beta=BETA, seed=0)
    model.eval()
    assert float(learner.loss(range(5)).loss.detach()) == pytest.approx(math.log(2), abs=1e-6)


class Noisy(nn.Module):
    """A layer behind dropout."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer, self._dropout = layer, nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, *others: object) -> torch.Tensor:
        dropped: torch.Tensor = self._layer(self._dropout(x), *others)
        return dropped
