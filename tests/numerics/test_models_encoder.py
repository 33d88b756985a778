"""Encoders that `transformers` wrote give the same vectors and scores here, in any company."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from purvey.contracts.embedding import Embed, NamedText, Rank
from purvey.contracts.limits import Limits
from purvey.contracts.model import MANIFEST_NAME
from purvey.engine.embedding.door import EmbeddingDoor
from purvey.engine.embedding.vectors import Vectors
from purvey.engine.linears import rows
from purvey.errors import (
    ContextLengthError,
    InvalidCheckpointError,
    InvalidValueError,
    UnsupportedValueError,
)
from purvey.models.encoder.framing import Framed, Framer
from purvey.models.encoder.loading import EmbeddingModel, load_embedding_model
from purvey.models.encoder.pooling import Pooling
from tests.numerics.encoders import FAMILIES, tokenizer_of, write_decoder, write_encoder

# Float32 sums of at most a few hundred terms, in another order: errors stay near 1e-6 here.
TOLERANCE = 1e-4
TEXTS = ("a", "the quick brown fox", "0 1 2 3", "fox", "jumps over the lazy dog 42", "zz " * 18)
PAIRS = (("what fox", "the quick brown fox"), ("dog", "a lazy dog jumps over"), ("a", "b"))


def _theirs(model: PreTrainedModel, family: str, text: str, pooling: str) -> Tensor:
    """Return the vector by `transformers`, one text at a time."""
    ids = tokenizer_of(family).encode(text).ids
    with torch.no_grad():
        states_TD = model(torch.tensor([ids])).last_hidden_state[0]
    vector_D = {"mean": states_TD.mean(0), "cls": states_TD[0], "last": states_TD[-1]}[pooling]
    return torch.nn.functional.normalize(vector_D, dim=0)


def _framed(model: EmbeddingModel, texts: tuple[str, ...] = TEXTS) -> list[Framed]:
    return [model.framer.text(text) for text in texts]


def _door(model: EmbeddingModel, **more: Any) -> EmbeddingDoor:  # its other arguments
    config = model.network.config
    given = {"max_tokens": model.max_tokens, "sizes": model.setup.sizes} | more
    return EmbeddingDoor(
        model.framer,
        vocabulary_size=config.vocabulary_size,
        vector_size=config.hidden_size,
        **given,
    )


def _manifest(folder: Path, family: str, **hyperparameters: object) -> None:
    values = {"family": family, "task": "embedding", "hyperparameters": hyperparameters}
    (folder / MANIFEST_NAME).write_text(json.dumps(values))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_transformers(tmp_path: Path, family: str, pooling: Pooling) -> None:
    theirs = write_encoder(tmp_path, family)
    _manifest(tmp_path, "encoder", pooling=pooling)
    model = load_embedding_model(tmp_path)
    assert (model.setup.pooling, model.manifest.task) == (pooling, "embedding")
    vectors = Vectors(model).vectors(_framed(model))
    for text, vector_D in zip(TEXTS, vectors, strict=True):
        wanted_D = _theirs(theirs, family, text, pooling)
        torch.testing.assert_close(vector_D, wanted_D, atol=TOLERANCE, rtol=0)
    assert (vectors[0] - vectors[1]).abs().max() > 100 * TOLERANCE  # texts are told apart


@pytest.mark.parametrize("activation", ["relu", "gelu_new"])
def test_other_activations(tmp_path: Path, activation: str) -> None:
    theirs = write_encoder(tmp_path, "bert", hidden_act=activation, type_vocab_size=1)
    model = load_embedding_model(tmp_path)
    (vector_D,) = Vectors(model).vectors(_framed(model, TEXTS[1:2]))
    wanted_D = _theirs(theirs, "bert", TEXTS[1], "mean")
    torch.testing.assert_close(vector_D, wanted_D, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_pairs_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    theirs = write_encoder(tmp_path, family, is_ranker=True)
    model = load_embedding_model(tmp_path)
    assert model.manifest.task == "rerank"
    scores = Vectors(model).scores([model.framer.pair(*pair) for pair in PAIRS])
    for pair, score in zip(PAIRS, scores, strict=True):
        encoded = tokenizer_of(family).encode(*pair)
        inputs = {"input_ids": torch.tensor([encoded.ids])}
        if family == "bert":
            inputs["token_type_ids"] = torch.tensor([encoded.type_ids])
        with torch.no_grad():
            logit = theirs(**inputs).logits[0, 0]
        torch.testing.assert_close(torch.logit(score).float(), logit, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_decoder_embeds_too(tmp_path: Path, pooling: Pooling) -> None:
    theirs = write_decoder(tmp_path)
    _manifest(tmp_path, "decoder", pooling=pooling)
    model = load_embedding_model(tmp_path)
    framed = _framed(model)
    assert all(text.ids[-1] == 2 for text in framed)  # as its tokenizer ends a text
    vectors = Vectors(model).vectors(framed)
    for text, vector_D in zip(framed, vectors, strict=True):
        with torch.no_grad():
            states_TD = theirs(torch.tensor([text.ids])).last_hidden_state[0]
        wanted_D = states_TD[-1] if pooling == "last" else states_TD.mean(0)
        wanted_D = torch.nn.functional.normalize(wanted_D, dim=0)
        torch.testing.assert_close(vector_D, wanted_D, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("kind", ["bert", "roberta", "decoder", "ranker"])
def test_neighbours_do_not_change_a_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_packed: bool
) -> None:
    monkeypatch.setattr(rows, "has_packed_kernels", lambda: is_packed)
    if kind == "decoder":
        write_decoder(tmp_path)
        _manifest(tmp_path, "decoder", pooling="mean")
    else:
        write_encoder(tmp_path, "bert" if kind == "ranker" else kind, is_ranker=kind == "ranker")
    model = load_embedding_model(tmp_path)
    passes = Vectors(model)
    run = passes.scores if kind == "ranker" else passes.vectors
    texts = _framed(model, (*TEXTS, *(f"{word} {number}" for word in TEXTS for number in (1, 20))))
    alone = [run([text])[0] for text in texts]
    for batch in (texts, texts[::-1], texts[3:5], texts[:2] + texts[8:]):
        for text, vector in zip(batch, run(batch), strict=True):
            assert torch.equal(vector, alone[texts.index(text)])


def test_weights_in_shards(tmp_path: Path) -> None:
    theirs = write_encoder(tmp_path, "bert", shards="20KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 3
    model = load_embedding_model(tmp_path)
    (vector_D,) = Vectors(model).vectors(_framed(model, TEXTS[1:2]))
    wanted_D = _theirs(theirs, "bert", TEXTS[1], "mean")
    torch.testing.assert_close(vector_D, wanted_D, atol=TOLERANCE, rtol=0)


def test_special_tokens_in_a_text_stay_text(tmp_path: Path) -> None:
    write_encoder(tmp_path, "bert")
    framer = load_embedding_model(tmp_path).framer
    framed = framer.text("a [SEP] b")
    assert framed.ids.count(3) == 1
    assert framed.ids[0] == 2
    assert len(framed) > 5


def test_texts_are_cut_within_their_frame() -> None:
    framer = Framer(json.loads(tokenizer_of("bert").to_str()))
    whole, pair = framer.text("a b c d"), framer.pair("a b", "c d e")
    assert whole.cut(4) == Framed(ids=(*whole.ids[:3], 3), types=(0,) * 4, start=1, end=3)
    assert whole.cut(6) is whole
    assert whole.cut(2) is None
    cut = pair.cut(6)
    assert cut is not None
    assert cut.ids == (*pair.ids[:5], 3)
    assert cut.types == (0, 0, 0, 0, 1, 1)
    assert pair.cut(5) is None  # the query is never cut


def _embed(*inputs: str | tuple[int, ...], **more: Any) -> Embed:  # its other fields
    params = tuple(f"input.{i}" for i in range(len(inputs)))
    return Embed(request_id="r", inputs=inputs, params=params, **more)


def _rank(*pairs: tuple[str, str]) -> Rank:
    return Rank(
        request_id="r",
        first=tuple(NamedText(text=a, param="query") for a, _ in pairs),
        second=tuple(NamedText(text=b, param=f"documents.{i}") for i, (_, b) in enumerate(pairs)),
    )


def test_what_does_not_fit_is_refused_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_encoder(tmp_path, "bert", matryoshka_dimensions=[16, 32])
    model = load_embedding_model(tmp_path)
    door, size = _door(model), model.network.config.vocabulary_size
    short, long = "a", "a " * 100
    with pytest.raises(ContextLengthError, match=r"102 tokens.* 64") as raised:
        door.texts(_embed(short, long))
    assert raised.value.param == "input.1"
    assert len(door.texts(_embed(long, truncate_tokens=64))[0]) == 64
    for asked, param, error in (
        ({"truncate_tokens": 65}, "truncate_prompt_tokens", InvalidValueError),
        ({"truncate_tokens": 2}, "truncate_prompt_tokens", InvalidValueError),
        ({"dimensions": 49}, "dimensions", InvalidValueError),
        ({"dimensions": 17}, "dimensions", UnsupportedValueError),
    ):
        with pytest.raises(error) as refused:
            door.texts(_embed(long, **asked))
        assert refused.value.param == param
    assert door.texts(_embed(short, dimensions=32))
    for tokens in ((4, size), (4, 2**31 - 1)):
        with pytest.raises(InvalidValueError) as unknown:
            door.texts(_embed(tokens))
        assert unknown.value.param == "input.0"
    with pytest.raises(ContextLengthError) as paired:
        door.pairs(_rank(("a", "b " * 70)))
    assert paired.value.param == "documents.0"
    with pytest.raises(ContextLengthError) as asked_too_long:
        door.pairs(_rank(("a " * 70, "b")))
    assert asked_too_long.value.param == "query"
    monkeypatch.setattr("purvey.engine.embedding.door.LIMITS", Limits(embedding_tokens=8))
    assert len(door.texts(_embed(short, short))) == 2
    with pytest.raises(InvalidValueError, match=r"9 tokens or more.* 8") as too_much:
        door.texts(_embed(short, short, short))
    assert too_much.value.param == "input"


def test_vectors_that_are_not_made_for_it_are_not_cut(tmp_path: Path) -> None:
    write_encoder(tmp_path, "bert")
    with pytest.raises(UnsupportedValueError, match="not made to be cut") as raised:
        _door(load_embedding_model(tmp_path)).texts(_embed("a", dimensions=16))
    assert raised.value.param == "dimensions"
    _manifest(tmp_path, "encoder", matryoshka=True)
    assert _door(load_embedding_model(tmp_path)).texts(_embed("a", dimensions=16))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"is_decoder": True}, "is_decoder"),
        ({"hidden_act": "silu"}, "hidden_act"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"num_hidden_layers": 4}, "layer 3"),
        ({"num_hidden_layers": 2**24}, "layer"),
        ({"num_hidden_layers": 2}, "not part of this architecture"),
        ({"type_vocab_size": 3}, "types.weight"),
        ({"vocab_size": 70}, "words.weight"),
        ({"auto_map": {"AutoModel": "m.M"}}, "auto_map"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"architectures": ["BertForSequenceClassification"]}, "no model for text-classification"),
        (
            {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "x"}},
            "head.out.bias",
        ),
        ({"matryoshka_dimensions": [0]}, "matryoshka_dimensions"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    write_encoder(tmp_path, "bert")
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    if "architectures" in changes and "id2label" not in changes:
        config.pop("id2label", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidCheckpointError, match=named):
        load_embedding_model(tmp_path)
