"""A step of vectors that is computed in parts has the gradient of the whole, and its losses add up.

Rows of the step are compared with all of its others, wherever they are computed.
"""

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from purvey.contracts.recipe_parts.descent import OptimizerConfig
from purvey.contracts.recipe_parts.looping import LoopConfig
from purvey.models.encoder.building import build_encoder
from purvey.models.encoder.framing import bare
from purvey.train.optim import build_optimizer
from purvey.train.parallel.team import Alone, batches
from purvey.train.step import StepTaken, update
from purvey.train.vectors.contrastive import ContrastiveLearner
from purvey.train.vectors.pairs import Pairs
from purvey.worker.training.encoders.pairs import ByLabel, ByPair

# Gradients are float32 sums of at most a few hundred terms, in another order: 300 * 6e-8.
TOLERANCE = 2e-5
NUM_ROWS, WIDTH, SIZES = 11, 16, (4, 8, 16)


def learner(*, dropout: float = 0.0, has_labels: bool = False) -> ContrastiveLearner:
    """Return a small encoder and rows, the same each time."""
    chance = random.Random(1)  # noqa: S311 (test data)
    texts = [bare(tuple(chance.choices(range(40), k=chance.randint(2, 9)))) for _ in range(40)]
    if has_labels:  # several partners each, of which one is drawn
        belonging = ByLabel([str(n % 4) for n in range(40)], range(NUM_ROWS))
        pairs = Pairs(asked=texts[:NUM_ROWS], found=texts, belonging=belonging)
    else:
        pairs = Pairs(
            asked=texts[:NUM_ROWS],
            found=texts[NUM_ROWS:],
            belonging=ByPair([str(n // 2) for n in range(NUM_ROWS)], range(NUM_ROWS)),
            negatives=range(NUM_ROWS, 2 * NUM_ROWS),
        )
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "num_layers": 1, "num_heads": 2, "dropout": dropout}
    module = build_encoder(shape, vocabulary_size=40, max_tokens=16).train()
    return ContrastiveLearner(
        module,
        pooling="mean",
        sizes=SIZES,
        pairs=pairs,
        validation=pairs,
        measure=lambda asked, found: {"mrr": 0.0},
        temperature=0.1,
        batch_size=NUM_ROWS,
        seed=0,
    )


def stepped(
    taught: ContrastiveLearner, rows: Sequence[int], *, at_once: int | None
) -> tuple[StepTaken, Tensor]:
    """Take a step; return what it was computed from, and its gradient."""
    torch.manual_seed(7)
    parameters = list(taught.module.parameters())
    taken = update(
        batches(Alone(taught), rows, LoopConfig(micro_batch_size=at_once)),
        parameters,
        build_optimizer(taught.module, OptimizerConfig()),
        clip_norm=None,
        step=0,
    )
    return taken, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


@pytest.mark.parametrize("has_labels", [False, True])
def test_parts_have_the_loss_and_the_gradient_of_the_whole(*, has_labels: bool) -> None:
    rows = [3, 0, 7, 10, 5, 1, 8, 2, 9, 4, 6]
    whole, wanted = stepped(learner(has_labels=has_labels), rows, at_once=None)
    largest = float(wanted.abs().max())
    for at_once in (1, 4):
        taken, gradient = stepped(learner(has_labels=has_labels), rows, at_once=at_once)
        assert taken.loss == pytest.approx(whole.loss, rel=TOLERANCE)
        assert (taken.num_rows, taken.num_tokens) == (whole.num_rows, whole.num_tokens)
        assert float((gradient - wanted).abs().max()) < TOLERANCE * largest
    # Parts that know nothing of each other learn something else by far.
    lonely = learner(has_labels=has_labels)
    torch.manual_seed(7)
    for start in range(0, NUM_ROWS, 4):
        portion = rows[start : start + 4]
        torch.autograd.backward(lonely.loss(portion).loss * len(portion) / NUM_ROWS)
    other = torch.cat([p.grad.flatten() for p in lonely.module.parameters() if p.grad is not None])
    assert float((other - wanted).abs().max()) > 1e3 * TOLERANCE * largest


def test_what_was_dropped_is_dropped_again_when_a_part_is_computed_once_more() -> None:
    rows, at_once = range(NUM_ROWS), 4
    _, gradient = stepped(learner(dropout=0.4), rows, at_once=at_once)
    by_hand = learner(dropout=0.4)
    torch.manual_seed(7)
    parts = [
        by_hand._vectors(
            by_hand._texts(part, [*part, *(NUM_ROWS + row for row in part)]), len(part)
        )
        for part in (rows[start : start + at_once] for start in range(0, NUM_ROWS, at_once))
    ]
    vectors_SBD = torch.cat(parts, dim=1)
    is_kin = torch.tensor([[i // 2 == j // 2 and i != j for j in rows] for i in rows])
    excluded_BC = torch.cat([is_kin, torch.zeros(NUM_ROWS, NUM_ROWS, dtype=torch.bool)], dim=1)
    loss = torch.zeros(())
    for size in SIZES:  # the loss as its equations have it
        asked_BD, found_BD, wrong_BD = normalize(vectors_SBD[..., :size], dim=-1)
        logits_BC = asked_BD @ torch.cat([found_BD, wrong_BD]).T / 0.1
        logits_BC = logits_BC.masked_fill(excluded_BC, -torch.inf)
        loss = loss + cross_entropy(logits_BC, torch.arange(NUM_ROWS))
    torch.autograd.backward(loss)
    wanted = torch.cat(
        [p.grad.flatten() for p in by_hand.module.parameters() if p.grad is not None]
    )
    assert float((gradient - wanted).abs().max()) < TOLERANCE * float(wanted.abs().max())
