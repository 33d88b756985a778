"""Scores and categories are told where they are plain, and left alone where they are not."""

from typing import Any

import pytest

from purvey.contracts.data import ColumnKind
from purvey.data.schema import infer_schema, requested_schema
from purvey.errors import InvalidValueError

NUMBERS: list[Any] = [f"{i / 7:.3f}" for i in range(40)]
TEXTS: list[Any] = [f"a sentence with number {i} in it, and more" for i in range(40)]
CITIES: list[Any] = ["Oslo", "北京", "New York", "Lima"] * 10
LABELS: list[Any] = ["a", "b"] * 20
PICTURES: list[Any] = [b"1", b"2"] * 20


def kinds(columns: dict[str, list[Any]]) -> dict[str, ColumnKind]:
    return {column.name: column.kind for column in infer_schema(columns).columns}


@pytest.mark.parametrize("name", ["score", "Rating", "target", "y", "label", "评分"])
def test_a_number_that_is_called_a_score_is_one(name: str) -> None:
    assert kinds({"content": TEXTS, name: NUMBERS}) == {"content": "text", name: "score"}


def test_a_score_stands_last_and_other_numbers_are_inputs() -> None:
    found = infer_schema({"score": NUMBERS, "age": NUMBERS, "photo": PICTURES})
    assert [(c.name, c.kind) for c in found.columns] == [
        ("age", "number"),
        ("photo", "image"),
        ("score", "score"),
    ]


@pytest.mark.parametrize("name", ["price", "length", "value"])
def test_a_number_of_another_name_stays_a_number(name: str) -> None:
    assert kinds({"content": TEXTS, name: NUMBERS})[name] == "number"


def test_numbers_beside_a_label_stay_numbers() -> None:
    found = kinds({"content": TEXTS, "score": NUMBERS, "label": LABELS})
    assert found == {"content": "text", "score": "number", "label": "label"}


def test_two_that_could_be_the_score_are_left_to_the_user() -> None:
    assert set(kinds({"score": NUMBERS, "rating": NUMBERS}).values()) == {"number"}


def test_whole_numbers_that_come_again_are_labels_and_others_are_not() -> None:
    stars: list[Any] = ["1", "2", "3", "4"] * 100
    prices: list[Any] = [str(90_000 + 7 * i) for i in range(400)]
    texts: list[Any] = [f"text {i}" for i in range(400)]
    assert kinds({"words": texts, "target": stars})["target"] == "label"
    assert kinds({"words": texts, "target": prices})["target"] == "score"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"age": NUMBERS, "city": CITIES, "label": LABELS}, "category"),
        ({"photo": PICTURES, "city": CITIES, "label": LABELS}, "category"),
        ({"age": NUMBERS, "city": CITIES}, "label"),  # nothing else to learn
        ({"city": CITIES, "score": NUMBERS}, "label"),  # few values are a label before a score is
        ({"city": CITIES, "label": LABELS}, "text"),  # nothing beside it
        ({"city": CITIES, "words": TEXTS, "label": LABELS}, "text"),  # a free text beside
        ({"age": NUMBERS, "city": [*CITIES[:-1], ""], "label": LABELS}, "text"),
        ({"age": NUMBERS, "city": [f"town {i}" for i in range(40)], "label": LABELS}, "text"),
    ],
)
def test_a_category_is_told_beside_a_label_and_another_input(
    columns: dict[str, list[Any]], expected: ColumnKind
) -> None:
    assert kinds(columns)["city"] == expected


def test_what_is_called_a_text_stays_one() -> None:
    columns = {"photo": PICTURES, "question": CITIES, "label": LABELS}
    assert kinds(columns)["question"] == "text"


@pytest.mark.parametrize("kind", ["label", "score", "transcript"])
def test_two_columns_to_learn_are_refused(kind: ColumnKind) -> None:
    with pytest.raises(InvalidValueError, match=f"both {kind}s") as refusal:
        requested_schema({"a": kind, "b": kind}, ["a", "b"])
    assert refusal.value.param == "columns.b"
