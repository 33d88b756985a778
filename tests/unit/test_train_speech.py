"""Learning by CTC: the order of rows, the loss, what counts as better."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import ctc_loss

from purvey.models.speech.network import CtcEncoder, steps_of
from purvey.train.hearing.ctc import SpeechLearner
from purvey.train.hearing.rows import like_length_order

NUM_MELS, NUM_OUTPUTS = 8, 4


class Made:
    """Random recordings of given lengths."""

    def __init__(self, lengths: Sequence[int]) -> None:
        generator = torch.Generator().manual_seed(1)
        self.lengths = lengths
        self._features = [torch.randn(NUM_MELS, n, generator=generator) for n in lengths]

    def __len__(self) -> int:
        return len(self.lengths)

    def features(self, row: int) -> Tensor:
        return self._features[row]


def encoder() -> CtcEncoder:
    torch.manual_seed(0)
    sizes = {"width": 10, "depth": 1, "kernel": 3}
    return CtcEncoder(num_mels=NUM_MELS, num_outputs=NUM_OUTPUTS, dropout=0.0, **sizes)


TARGETS = [[1, 2], [3], [1, 1, 2], [2, 3, 1, 2]]


def learner(cer: float = 0.5) -> SpeechLearner:
    recordings = Made([40, 22, 60, 50])
    return SpeechLearner(
        encoder(),
        recordings=recordings,
        targets=TARGETS,
        validation=recordings,
        validation_targets=TARGETS,
        measure=lambda heard: {"cer": cer, "wer": 1.0},
        batch_size=2,
        seed=3,
    )


def test_batches_are_of_like_length_and_hold_every_row_once() -> None:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(10, 1_000, (1_003,), generator=generator).tolist()
    orders = [like_length_order(lengths, batch_size=10, seed=7, epoch=e) for e in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    for order in orders:
        assert sorted(order) == list(range(len(lengths)))
        batches = [order[i : i + 10] for i in range(0, 1_000, 10)]
        padded = sum(10 * max(lengths[r] for r in b) for b in batches)
        assert padded < 1.15 * sum(lengths[r] for r in order[:1_000])
    firsts = [
        lengths[o[0]]
        for o in (like_length_order(lengths, batch_size=10, seed=7, epoch=e) for e in range(1, 9))
    ]
    assert firsts != sorted(firsts)  # batches are mixed, not from short to long


def test_few_rows_are_one_batch() -> None:
    assert sorted(like_length_order([5, 9, 2], batch_size=16, seed=0, epoch=1)) == [0, 1, 2]


def test_the_loss_is_that_of_each_row_alone_per_character() -> None:
    subject, recordings = learner(), Made([40, 22, 60, 50])
    nats = 0.0
    for row, target in enumerate(TARGETS):
        x_MF = recordings.features(row)
        steps = torch.tensor([steps_of(x_MF.shape[1])])
        logp_BTV = subject.module(x_MF[None], torch.tensor([x_MF.shape[1]]))
        loss = ctc_loss(
            logp_BTV.transpose(0, 1),
            torch.tensor([target]),
            steps,
            torch.tensor([len(target)]),
            reduction="sum",
        )
        nats += float(loss.detach())
    batch = subject.loss([0, 1, 2, 3])
    assert (batch.num_rows, batch.num_tokens) == (4, 10)
    assert float(batch.loss.detach()) == pytest.approx(nats / 10, rel=1e-5)
    found = subject.validate()
    assert found is not None
    assert found.loss == pytest.approx(nats / 10, rel=1e-5)


def test_the_loss_counts_as_long_as_nothing_is_heard() -> None:
    silent, hearing = learner(cer=1.0).validate(), learner(cer=0.8).validate()
    assert silent is not None
    assert hearing is not None
    assert silent.score == pytest.approx(-1 - silent.loss)
    assert hearing.score == -0.8 > silent.score
    assert set(hearing.metrics) == {"valid_loss", "cer", "wer"}


def test_without_validation_rows_nothing_is_evaluated() -> None:
    subject = SpeechLearner(
        encoder(),
        recordings=Made([20]),
        targets=[[1]],
        validation=Made([]),
        validation_targets=[],
        measure=lambda heard: {},
        batch_size=2,
        seed=3,
    )
    assert subject.validate() is None


def test_the_first_epoch_goes_from_short_to_long() -> None:
    order = like_length_order([5, 9, 2, 7, 3], batch_size=2, seed=0, epoch=0)
    assert order == [2, 4, 0, 3, 1]
