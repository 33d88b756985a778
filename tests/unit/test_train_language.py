"""Packing, masking, batching: each target counts once, and neither padding nor a neighbour does."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.train.language import LanguageLearner, row_losses
from purvey.train.token_rows import TokenRow, collate, pack, token_row

VOCABULARY = 31


def decoder(window: int | None = None) -> Decoder:
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
            windows=() if window is None else (window, None),
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
@pytest.mark.parametrize("is_packed", [True, False])
def test_an_epoch_visits_every_row_once(count: int, batch_size: int, is_packed: bool) -> None:
    learner = LanguageLearner(
        decoder(), rows(count), [], batch_size=batch_size, seed=3, is_packed=is_packed
    )
    order = list(learner.order(0))
    assert sorted(order) == list(range(count))
    assert list(learner.order(0)) == order
    if count > 10:
        assert list(learner.order(1)) != order


def test_padded_batches_gather_rows_of_like_length() -> None:
    chosen = rows(512, longest=200)
    learner = LanguageLearner(decoder(), chosen, [], batch_size=8, seed=3, is_packed=False)
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


def test_nats_per_character_do_not_depend_on_the_tokens() -> None:
    model, chosen = decoder(), rows(9)
    learner = LanguageLearner(
        model, chosen, chosen, batch_size=4, seed=0, validation_characters=200
    )
    found = learner.validate()
    assert found is not None
    num_targets = sum(row.num_targets for row in chosen)
    expected = found.loss * num_targets / 200
    assert found.metrics["nats_per_character"] == pytest.approx(expected)


def test_collating_packs_or_pads_on_the_right() -> None:
    pair = [
        token_row([5, 6], [True, True], max_tokens=9),
        token_row([7, 8, 9], [False, False, True], max_tokens=9),
    ]
    packed = collate(pair)
    assert packed.lengths == (1, 2)
    assert packed.tokens_T.tolist() == [5, 7, 8]
    assert packed.positions_T.tolist() == [0, 0, 1]
    assert packed.targets_T.tolist() == [6, 8, 9]
    assert packed.is_target_T.tolist() == [True, False, True]
    assert packed.owners().tolist() == [0, 1]
    padded = collate(pair, is_packed=False)
    assert padded.lengths == (2, 2)
    assert padded.tokens_T.tolist() == [5, 0, 7, 8]
    assert padded.positions_T.tolist() == [0, 1, 0, 1]
    assert padded.is_target_T.tolist() == [True, False, False, True]
    assert padded.owners().tolist() == [0, 1]


@pytest.mark.parametrize("window", [None, 5])
def test_packed_rows_do_not_see_one_another(window: int | None) -> None:
    """Loss and gradient are those of padded rows; another neighbour changes neither by a bit."""
    chosen, other = rows(6), rows(1, seed=9)
    found = []
    for is_packed in (True, False):
        model = decoder(window)
        learner = LanguageLearner(model, chosen, [], batch_size=6, seed=0, is_packed=is_packed)
        batch = learner.loss(range(6))
        torch.autograd.backward(batch.loss)
        found.append((batch.loss.detach(), model.embed_tokens.weight.grad, batch.num_tokens))
    (packed, packed_grad, count), (padded, padded_grad, expected) = found
    assert count == expected
    # float32 sums of 16 to 64 terms in another order: errors near 1e-6.
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed_grad, padded_grad, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        alone = row_losses(decoder(window), chosen[:1])[0][0]
        beside = row_losses(decoder(window), [chosen[0], *other])[0][0]
    assert beside == pytest.approx(alone, rel=1e-5)
