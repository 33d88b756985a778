"""Which columns texts are paired by, and what a run that learns vectors does not take."""

from typing import Any, get_args

import pytest

from purvey.contracts.data import Column, ColumnKind, DatasetManifest
from purvey.contracts.defaults import with_recipe_defaults
from purvey.contracts.hugging_face import label_names, manifest_of
from purvey.contracts.limits import LIMITS
from purvey.contracts.recipe import parse_recipe
from purvey.contracts.recipe_parts.embedding import EmbeddingConfig, PairColumns, pair_columns
from purvey.errors import InvalidValueError


def _dataset(**columns: ColumnKind) -> DatasetManifest:
    assert set(columns.values()) <= set(get_args(ColumnKind))
    return DatasetManifest(columns=tuple(Column(name=n, kind=k) for n, k in columns.items()))


@pytest.mark.parametrize(
    ("columns", "config", "wanted"),
    [
        ({"a": "text", "b": "text"}, {}, PairColumns(asked="a", by="b")),
        ({"answer": "text", "Question": "text"}, {}, PairColumns(asked="Question", by="answer")),
        ({"a": "text", "b": "text", "c": "text"}, {}, PairColumns(asked="a", by="b")),
        (
            {"negative": "text", "b": "text", "positive": "text"},
            {},
            PairColumns(asked="b", by="positive", negative="negative"),
        ),
        ({"a": "text", "y": "label"}, {}, PairColumns(asked="a", by="y", is_label=True)),
        ({"answer": "text", "y": "label"}, {}, PairColumns(asked="answer", by="y", is_label=True)),
        (
            {"a": "text", "b": "text", "y": "label"},
            {},
            PairColumns(asked="a", by="y", is_label=True),
        ),
        (
            {"a": "text", "b": "text", "y": "label"},
            {"asked": "b", "found": "a"},
            PairColumns(asked="b", by="a"),
        ),
        (
            {"query": "text", "passage": "text", "hard_negative": "text", "y": "label"},
            {},
            PairColumns(asked="query", by="passage", negative="hard_negative"),
        ),
    ],
)
def test_columns_are_found_by_word_by_name_and_by_order(
    columns: dict[str, ColumnKind], config: dict[str, str], wanted: PairColumns
) -> None:
    found = pair_columns(EmbeddingConfig.model_validate(config), _dataset(**columns))
    assert found == wanted
    assert set(found.texts) <= {name for name, kind in columns.items() if kind == "text"}


@pytest.mark.parametrize(
    ("columns", "config", "param", "told"),
    [
        ({"a": "text"}, {}, "recipe.dataset", "two text columns"),
        ({"x": "number", "y": "label"}, {}, "recipe.dataset", "two text columns"),
        ({"a": "text", "b": "text"}, {"found": "bb"}, "recipe.embedding.found", "mean 'b'"),
        ({"a": "text", "y": "label"}, {"found": "y"}, "recipe.embedding.found", "no text column"),
        (
            {"a": "text", "b": "text"},
            {"asked": "a", "found": "a"},
            "recipe.embedding.found",
            "second time",
        ),
        (
            {"a": "text", "b": "text", "y": "label"},
            {"negative": "b"},
            "recipe.embedding.negative",
            "beside pairs",
        ),
    ],
)
def test_what_pairs_no_texts_is_refused(
    columns: dict[str, ColumnKind], config: dict[str, str], param: str, told: str
) -> None:
    with pytest.raises(InvalidValueError, match=told) as raised:
        pair_columns(EmbeddingConfig.model_validate(config), _dataset(**columns))
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"task": "text-classification", "embedding": {"temperature": 1.0}}, "recipe.embedding"),
        ({"task": "embedding", "train": {"batch_size": 1}}, "recipe.train.batch_size"),
        ({"task": "embedding", "parallel": {"strategy": "fsdp"}}, "recipe.parallel.strategy"),
        ({"task": "embedding", "embedding": {"dimensions": [8, 8]}}, "recipe.embedding"),
        ({"task": "embedding", "embedding": {"dimensions": [0]}}, "recipe.embedding.dimensions.0"),
        ({"task": "regression", "embedding": {"dimensions": [8]}}, "recipe.embedding"),
        ({"task": "embedding", "train": {"label_smoothing": 0.1}}, "recipe.train.label_smoothing"),
        ({"task": "embedding", "embedding": {"temperature": 0.0}}, "recipe.embedding.temperature"),
    ],
)
def test_settings_without_a_meaning_are_refused(values: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidValueError) as raised:
        parse_recipe(with_recipe_defaults(values))
    assert raised.value.param == param


def test_a_base_is_tuned_in_smaller_steps() -> None:
    for task in ("embedding", "text-classification"):
        tuned = parse_recipe(with_recipe_defaults({"task": task, "model": {"base": "bert"}}))
        new = {"task": task, "model": {"architecture": "encoder"}}
        built = parse_recipe(with_recipe_defaults(new))
        assert tuned.optimizer.learning_rate < built.optimizer.learning_rate
        assert tuned.model.architecture is None
    assert parse_recipe(with_recipe_defaults({"task": "embedding"})).model.architecture == "encoder"


HEAD = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ({}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"1": "差", "0": "好"}}, ("好", "差")),
        ({"id2label": {"0": "a", "1": "a"}}, ("LABEL_0", "LABEL_1")),
        ({"id2label": {"0": "a", "7": "b"}}, ("LABEL_0", "LABEL_1")),
        ({"id2label": {"0": "a", "1": 5}}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": LIMITS.labels + 1}, ()),
    ],
)
def test_a_classifier_is_known_by_its_labels(
    given: dict[str, Any], labels: tuple[str, ...]
) -> None:
    assert label_names(given) == labels
    manifest = manifest_of({**HEAD, **given}, has_modules=False)
    assert (manifest.family, manifest.task) == ("encoder", "text-classification")
    assert (manifest.labels, list(manifest.inputs)) == (labels, ["input"])
