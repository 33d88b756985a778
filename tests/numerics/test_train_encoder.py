"""Encoders that learn compute, and are saved, as `transformers` has them; heads begin anew."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from purvey.contracts.engine import TextInput
from purvey.contracts.model import ModelManifest, ModelSource
from purvey.engine.embedding.vectors import Vectors
from purvey.errors import InvalidCheckpointError
from purvey.evaluate.retrieval import places
from purvey.models.attention.base import AttentionRule
from purvey.models.attention.packed import PackedAttention
from purvey.models.attention.padded import PaddedAttention
from purvey.models.classifier import Classifier
from purvey.models.encoder.building import build_encoder, train_tokenizer
from purvey.models.encoder.framing import bare
from purvey.models.encoder.loading import load_embedding_model
from purvey.models.encoder.modules import EmbeddingSetup
from purvey.models.encoder.saving import save_encoder, save_setup
from purvey.models.encoder.starting import start_encoder
from purvey.models.encoder.texts import collate
from purvey.models.loading import open_model
from purvey.train.vectors.contrastive import info_nce
from purvey.train.vectors.pairs import Pairs, columns_of, excluded, first
from purvey.worker.training.encoders.pairs import ByLabel, ByPair
from tests.numerics.encoders import FAMILIES, tokenizer_of, write_encoder

# Float32 sums of at most a few hundred terms, in another order: errors stay near 1e-6 here.
TOLERANCE = 1e-4
TEXTS = ("a", "the quick brown fox", "fox", "jumps over the lazy dog 42")
LABELS = ("no", "maybe", "yes")


def _theirs(model: Any, family: str) -> Tensor:
    """Return the logits by `transformers`, one text at a time."""
    tokenizer = tokenizer_of(family)
    rows = [model(torch.tensor([tokenizer.encode(text).ids])).logits[0] for text in TEXTS]
    return torch.stack(rows)


def _inputs(family: str) -> tuple[Tensor, Tensor, Tensor]:
    framed = [tokenizer_of(family).encode(text) for text in TEXTS]
    return collate([(torch.tensor(f.ids), torch.tensor(f.type_ids)) for f in framed])


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    theirs = write_encoder(tmp_path, family, num_labels=3)
    started = start_encoder(tmp_path, labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    assert not started.initialised.fresh
    ours = started.module.eval()
    targets = torch.tensor([0, 1, 2, 1])
    logits, wanted = ours(*_inputs(family)), _theirs(theirs, family)
    torch.testing.assert_close(logits, wanted, atol=TOLERANCE, rtol=0)
    for found in (logits, wanted):
        torch.autograd.backward(cross_entropy(found, targets))
    by_name = dict(ours.named_parameters())
    embeddings = [p for n, p in theirs.named_parameters() if "word_embeddings" in n]
    last = [
        p
        for n, p in theirs.named_parameters()
        if n.endswith(("out_proj.weight", "classifier.weight"))
    ]
    for name, parameter in (("words.weight", embeddings[0]), ("head.out.weight", last[-1])):
        mine = by_name[name].grad
        assert mine is not None
        assert mine.abs().max() > 100 * TOLERANCE
        torch.testing.assert_close(mine, parameter.grad, atol=TOLERANCE, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_opens_in_transformers(tmp_path: Path, family: str) -> None:
    write_encoder(tmp_path / "base", family)
    started = start_encoder(tmp_path / "base", labels=LABELS)
    fresh = {"head.out.weight", "head.out.bias"}
    assert (
        fresh <= set(started.initialised.fresh) <= fresh | {"head.dense.weight", "head.dense.bias"}
    )
    manifest = ModelManifest(family="encoder", task="text-classification", labels=LABELS)
    save_encoder(tmp_path / "made", started.module, started.tokenizer, manifest)
    theirs, found = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "made", output_loading_info=True
    )
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert [theirs.config.id2label[number] for number in range(3)] == list(LABELS)
    with torch.no_grad():
        logits, wanted = started.module.eval()(*_inputs(family)), _theirs(theirs, family)
    torch.testing.assert_close(logits, wanted, atol=TOLERANCE, rtol=0)
    again = start_encoder(tmp_path / "made", labels=LABELS)  # the same labels: its own head
    assert not again.initialised.fresh
    torch.testing.assert_close(again.module.head.out.weight, started.module.head.out.weight)
    other = start_encoder(tmp_path / "made", labels=(*LABELS[::-1],))
    assert set(other.initialised.fresh) == fresh


def test_a_new_encoder_opens_in_transformers_and_in_sentence_transformers_form(
    tmp_path: Path,
) -> None:
    torch.manual_seed(3)
    texts = ["the dog buys a car", "一只狗买了车", "the cat sells a sofa"] * 3
    tokenizer = train_tokenizer(texts, vocabulary_size=300)
    size = tokenizer.framer().vocabulary_size
    module = build_encoder({"hidden_size": 32}, vocabulary_size=size, max_tokens=40).eval()
    setup = EmbeddingSetup(pooling="cls", prompt="query: ")
    words = {"pooling": "cls", "prompt": "query: "}
    manifest = ModelManifest(family="encoder", task="embedding", hyperparameters=words)
    save_encoder(tmp_path, module, tokenizer, manifest)
    save_setup(tmp_path, setup, width=32, max_tokens=40)
    theirs, their_tokenizer = (
        AutoModel.from_pretrained(tmp_path),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    served = load_embedding_model(tmp_path)
    (tmp_path / "purvey.json").unlink()
    told = load_embedding_model(tmp_path)  # by the files of sentence-transformers alone
    assert (told.setup.pooling, told.setup.prompt) == ("cls", "query: ")
    assert told.max_tokens == served.max_tokens == 40
    framed = [served.framer.text(text) for text in texts[:3]]
    for text, one in zip(texts, framed, strict=False):
        assert tuple(their_tokenizer(f"query: {text}")["input_ids"]) == one.ids
    with torch.no_grad():
        learned = module.vectors(framed, "cls")
        wanted = [theirs(torch.tensor([one.ids])).last_hidden_state[0, 0] for one in framed]
    for mine, by_engine, by_them in zip(
        learned, Vectors(served).vectors(framed), wanted, strict=True
    ):
        torch.testing.assert_close(mine, by_engine, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(mine, by_them / by_them.norm(), atol=TOLERANCE, rtol=0)


def test_a_classifier_of_transformers_is_served_as_it_is(tmp_path: Path) -> None:
    theirs = write_encoder(tmp_path, "xlm-roberta", num_labels=3)
    model = open_model(ModelSource(name="m", folder=str(tmp_path), digest="0" * 64))
    assert isinstance(model, Classifier)
    assert model.manifest.task == "text-classification"
    assert model.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    rows = model.prepare_all([{"input": TextInput(text=text)} for text in TEXTS])
    with torch.inference_mode():
        found = model.answers(model.logits(model.collate(rows)))
        again = model.answers(model.logits(model.collate(rows[:1])))
    with torch.no_grad():
        wanted = _theirs(theirs, "xlm-roberta").softmax(-1).double()
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(again, found[:1], atol=TOLERANCE, rtol=0)
    cut = model.prepare({"input": TextInput(text="a " * 500)})
    assert model.reader is not None
    assert len(cut[0]) == model.reader.max_tokens < 100


def test_a_head_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    several, other = tmp_path / "several", tmp_path / "other"
    write_encoder(several, "bert", num_labels=3, problem_type="multi_label_classification")
    with pytest.raises(InvalidCheckpointError, match="problem_type"):
        open_model(ModelSource(name="m", folder=str(several), digest="0" * 64))
    write_encoder(other, "bert", num_labels=3)
    manifest = '{"family": "encoder", "task": "text-classification", "labels": ["a", "b"]}'
    (other / "purvey.json").write_text(manifest)
    with pytest.raises(InvalidCheckpointError, match="2 labels"):
        open_model(ModelSource(name="m", folder=str(other), digest="0" * 64))


@pytest.mark.parametrize("lengths", [(3, 3), (1, 5, 2), (4,)])
def test_padding_changes_nothing_of_attention(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    q, k, v = torch.randn(3, sum(lengths), 2, 8).requires_grad_().unbind(0)
    rule = AttentionRule(scale=0.3)
    padded = PaddedAttention(lengths)(0, q, k, v, rule)
    packed = PackedAttention(lengths, is_causal=False)(0, q, k, v, rule)
    torch.testing.assert_close(padded, packed, atol=1e-6, rtol=1e-5)
    towards = torch.randn_like(padded)
    one, other = (
        torch.autograd.grad((found * towards).sum(), (q, k, v), retain_graph=True)
        for found in (padded, packed)
    )
    for mine, wanted in zip(one, other, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-6, rtol=1e-5)


def _unit(rows: int, seed: int) -> Tensor:
    vectors = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def _pairs(belonging: Any, num_rows: int, num_found: int, negatives: tuple[int, ...] = ()) -> Pairs:
    return Pairs(
        asked=[bare((1,))] * num_rows,
        found=[bare((1,))] * num_found,
        belonging=belonging,
        negatives=negatives,
    )


def test_info_nce_is_its_equation_and_knows_who_belongs_to_whom() -> None:
    # Rows 0 and 2 ask the same; text 2, which is near and wrong for row 1, is right for them.
    pairs = _pairs(ByPair(("q", "r", "q", "s"), (0, 1, 2, 3)), 4, 5, (4, 2, 4, 4))
    rows = range(4)
    columns = columns_of(pairs, rows, first)
    assert columns == [0, 1, 2, 3, 4, 2, 4, 4]
    excluded_BC = excluded(pairs, rows, columns)
    allowed = [[j for j in range(8) if not excluded_BC[i, j]] for i in range(4)]
    assert allowed == [
        [0, 1, 3, 4, 6, 7],
        [0, 1, 2, 3, 4, 5, 6, 7],
        [1, 2, 3, 4, 6, 7],
        [*range(8)],
    ]
    asked, found = _unit(4, 1), _unit(5, 2)[columns]
    losses = info_nce(asked, found, excluded_BC, temperature=0.2)
    each = []
    for i in rows:
        odds = {
            j: float(torch.exp(asked[i].double() @ found[j].double() / 0.2)) for j in allowed[i]
        }
        each.append(-np.log(odds[i] / sum(odds.values())))
    assert losses.tolist() == pytest.approx(each, rel=1e-5)


def test_texts_of_a_label_are_no_negatives_of_each_other() -> None:
    relation = ByLabel(("a", "b", "a", "c", "b", "a"), (0, 1, 2, 4, 5))  # nothing else is a "c"
    pairs = _pairs(relation, 5, 6)
    assert relation.partners(0).tolist() == [2, 5]
    assert relation.partners(3).tolist() == [1]  # row 3 is text 4
    columns = columns_of(pairs, (0, 1, 2), first)
    assert columns == [2, 4, 0]
    assert excluded(pairs, (0, 1, 2), columns).tolist() == [
        [False, False, True],  # text 0 itself
        [False, False, False],
        [True, False, False],  # text 2 itself
    ]


def test_places_are_those_of_a_full_sort_and_ties_count_against_the_model() -> None:
    asked, found = _unit(6, 3).numpy(), _unit(9, 4).numpy()
    relation = ByPair(("q", "r", "q", "s", "t", "u"), (0, 1, 2, 3, 4, 5))
    expected = []
    for row in range(6):
        order = np.argsort(-(found @ asked[row])).tolist()
        right = relation.relevant(row).tolist()
        best = next(n for n, number in enumerate(order) if number in right)
        expected.append(best + 1)
    assert places(asked, found, relation).tolist() == expected
    same = np.tile(_unit(1, 5).numpy(), (9, 1))
    assert places(asked, same, relation).tolist() == [8, 9, 8, 9, 9, 9]
    labels = ByLabel(("a", "b", "a", "b"), (0, 1, 2, 3))
    texts = _unit(4, 6).numpy()
    for row, place in enumerate(places(texts, texts, labels)):
        cosines = texts @ texts[row]
        others = [cosines[n] for n in range(4) if n % 2 != row % 2]
        assert place == 1 + sum(other >= cosines[(row + 2) % 4] for other in others)


def test_a_base_without_a_head_is_told_from_one_with(tmp_path: Path) -> None:
    write_encoder(tmp_path, "bert", num_labels=3)
    started = start_encoder(tmp_path, labels=None)
    assert not started.initialised.fresh
    assert "classifier.weight" in started.initialised.unused
    assert started.initialised.as_json()["num_unused"] == len(started.initialised.unused)
    assert "not used" in started.initialised.sentence()
    trimmed = replace(started.initialised, unused=())
    assert trimmed.sentence().endswith("come from the base.")
