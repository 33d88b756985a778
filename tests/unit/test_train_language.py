"""Packing, masking, batching: each target counts once, and padding never counts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.train.language import (
    LanguageLearner,
    TokenRow,
    collate,
    pack,
    row_losses,
    token_row,
)

VOCABULARY = 31


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(
        DecoderConfig(
            vocabulary_size=VOCABULARY,
            hidden_size=16,
            mlp_size=32,
            num_layers=2,
            num_heads=2,
            num_kv_heads=2,
            head_size=8,
            context_tokens=64,
            initializer_std=0.3,
        )
    ).eval()


def rows(count: int, seed: int = 0, *, longest: int = 20) -> list[TokenRow]:
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        size = int(generator.integers(2, longest))
        is_target = generator.random(size) < 0.5
        is_target[-1] = True
        made.append(
            token_row(
                generator.integers(0, VOCABULARY, size).tolist(), is_target.tolist(), max_tokens=99
            )
        )
    return made


@given(
    documents=st.lists(st.lists(st.integers(1, 9), max_size=30), min_size=1, max_size=8),
    row_tokens=st.integers(1, 12),
)
@settings(max_examples=100, deadline=None)
def test_packing_makes_every_token_a_target_once(
    documents: list[list[int]], row_tokens: int
) -> None:
    stream = [0]
    for document in documents:
        stream += [*document, 0]
    packed = pack(documents, end_id=0, row_tokens=row_tokens)
    sizes = {len(row.ids) for row in packed}
    assert sizes == {min(row_tokens + 1, len(stream))}
    starts = [row_tokens * i for i in range(len(packed) - 1)]
    starts.append(len(stream) - sizes.pop())
    for start, row in zip(starts, packed, strict=True):
        assert row.ids.tolist() == stream[start : start + len(row.ids)]
    targets = [
        start + i
        for start, row in zip(starts, packed, strict=True)
        for i in range(1, len(row.ids))
        if row.is_target[i]
    ]
    assert targets == list(range(1, len(stream)))


def test_what_begins_a_prompt_begins_every_document() -> None:
    (row,) = pack([[1, 2], [3]], end_id=0, row_tokens=16, begin_ids=(9,))
    assert row.ids.tolist() == [9, 1, 2, 0, 9, 3, 0]
    assert pack([], end_id=0, row_tokens=16, begin_ids=(9,)) == []


def test_the_first_id_is_never_a_target_and_rows_are_cut() -> None:
    row = token_row([1, 2, 3, 4], [True, False, True, True], max_tokens=3)
    assert row.ids.tolist() == [1, 2, 3]
    assert row.num_targets == 1


def test_the_loss_is_that_of_each_row_alone() -> None:
    model, chosen = decoder(), rows(7)
    learner = LanguageLearner(model, chosen, [], batch_size=4, seed=0)
    expected, count = 0.0, 0
    for row in chosen:
        ids = torch.from_numpy(row.ids.astype(np.int64))
        logits = model(ids[None, :-1])[0].detach()
        losses = cross_entropy(logits, ids[1:], reduction="none")
        expected += float(losses[torch.from_numpy(row.is_target[1:])].sum())
        count += row.num_targets
    batch = learner.loss(range(7))
    assert (batch.num_tokens, batch.num_rows) == (count, 7)
    # float32 sums of about 100 terms near 5: relative error below 1e-5.
    assert float(batch.loss.detach()) == pytest.approx(expected / count, rel=1e-5)
    nats, tokens = row_losses(model, chosen)
    assert nats.sum() == pytest.approx(expected, rel=1e-5)
    assert tokens.tolist() == [row.num_targets for row in chosen]


def test_evaluation_in_many_batches_is_that_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, chosen = decoder(), rows(30)
    whole, _ = row_losses(model, chosen)
    monkeypatch.setattr("purvey.train.language._EVAL_TOKENS", 40)
    pieces, _ = row_losses(model, chosen)
    np.testing.assert_allclose(pieces, whole, rtol=1e-5)


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (37, 4), (64, 4), (200, 7)])
def test_an_epoch_visits_every_row_once(count: int, batch_size: int) -> None:
    learner = LanguageLearner(decoder(), rows(count), [], batch_size=batch_size, seed=3)
    order = list(learner.order(0))
    assert sorted(order) == list(range(count))
    assert list(learner.order(0)) == order
    if count > 10:
        assert list(learner.order(1)) != order


def test_batches_gather_rows_of_like_length() -> None:
    chosen = rows(512, longest=200)
    learner = LanguageLearner(decoder(), chosen, [], batch_size=8, seed=3)
    order = list(learner.order(0))
    lengths = np.array([len(chosen[row].ids) for row in order]).reshape(-1, 8)
    padding = (lengths.max(axis=1, keepdims=True) - lengths).sum() / lengths.sum()
    assert padding < 0.15  # at random it is about 0.75


def test_validation_scores_minus_the_loss() -> None:
    model, chosen = decoder(), rows(9)
    learner = LanguageLearner(model, chosen, chosen, batch_size=4, seed=0)
    found = learner.validate()
    assert found is not None
    assert found.score == -found.loss
    assert found.metrics["perplexity"] == pytest.approx(np.exp(found.loss))
    assert LanguageLearner(model, chosen, [], batch_size=4, seed=0).validate() is None


def test_collating_pads_on_the_right() -> None:
    tokens, targets, is_target = collate(
        [
            token_row([5, 6], [True, True], max_tokens=9),
            token_row([7, 8, 9], [False, False, True], max_tokens=9),
        ]
    )
    assert tokens.tolist() == [[5, 0], [7, 8]]
    assert targets.tolist() == [[6, 0], [8, 9]]
    assert is_target.tolist() == [[True, False], [False, True]]
