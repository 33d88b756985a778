"""A batch in portions has the gradient of the whole, whatever the portions weigh."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from purvey.contracts.recipe_parts.descent import OptimizerConfig
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.train.classification import ClassifierLearner, LossShape, balanced_weights
from purvey.train.language import LanguageLearner
from purvey.train.learner import Learner
from purvey.train.optim import build_optimizer
from purvey.train.step import StepTaken, update
from purvey.train.token_rows import TokenRow, token_row
from tests.unit.test_train_classification import Fixed

SGD = OptimizerConfig(name="sgd", learning_rate=1.0, momentum=0.0)


def ragged_rows() -> list[TokenRow]:
    generator = np.random.default_rng(0)
    sizes = (3, 20, 4, 19, 2, 7, 18)
    return [
        token_row(generator.integers(0, 31, n).tolist(), [True] * n, max_tokens=99) for n in sizes
    ]


def language_learner() -> LanguageLearner:
    torch.manual_seed(0)
    decoder = Decoder(
        DecoderConfig(
            vocabulary_size=31,
            hidden_size=16,
            mlp_size=32,
            num_layers=1,
            num_heads=2,
            num_kv_heads=2,
            head_size=8,
            context_tokens=64,
            initializer_std=0.3,
        )
    )
    return LanguageLearner(decoder, ragged_rows(), [], batch_size=7, seed=0, smoothing=0.1)


def classifier_learner() -> ClassifierLearner:
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    examples = Fixed(network, torch.randn(7, 4))
    targets = np.array([0, 0, 0, 0, 1, 2, 0])
    shape = LossShape(label_weights=balanced_weights(targets, num_labels=3), smoothing=0.2)
    return ClassifierLearner(
        network,
        examples=examples,
        targets=targets,
        validation=Fixed(network, torch.zeros(0, 4)),
        validation_targets=np.zeros(0, dtype=np.int64),
        measure=lambda logits, targets: {},
        seed=0,
        loss_shape=shape,
    )


def stepped(learner: Learner, portions: Sequence[range]) -> tuple[StepTaken, torch.Tensor]:
    """Take one step; return what it tells, and all weights."""
    parameters = list(learner.module.parameters())
    optimizer = build_optimizer(learner.module, SGD)
    batches = (learner.loss(rows) for rows in portions)
    taken = update(batches, parameters, optimizer, clip_norm=1.0, step=0)
    return taken, torch.cat([p.detach().reshape(-1) for p in parameters])


@pytest.mark.parametrize("make", [language_learner, classifier_learner])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_portions_add_up_to_the_batch(make: type[Learner], size: int) -> None:
    whole, expected = stepped(make(), [range(7)])
    portions = [range(start, min(start + size, 7)) for start in range(0, 7, size)]
    parts, found = stepped(make(), portions)
    assert (parts.num_rows, parts.num_tokens) == (whole.num_rows, whole.num_tokens)
    # Float32 sums of at most a few hundred terms in another order; steps are of norm 1.
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_balanced_weights_make_labels_count_the_same() -> None:
    targets = np.array([0, 0, 0, 1, 3, 3])
    weights = balanced_weights(targets, num_labels=4).numpy()
    sums = [float(weights[targets][targets == label].sum()) for label in range(4)]
    assert sums == pytest.approx([2.0, 2.0, 0.0, 2.0])
    assert weights[targets].mean() == pytest.approx(1.0)
