"""What the columns are, and what their cells become."""

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from purvey.contracts.data import Column, ColumnKind
from purvey.data.convert import convert
from purvey.data.reading.table import RawTable
from purvey.data.schema import infer_schema, requested_schema
from purvey.errors import InvalidFileError, InvalidValueError

TEXTS: list[Any] = [f"a sentence with number {i} in it, and more" for i in range(20)]
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def kinds(columns: dict[str, list[Any]]) -> dict[str, ColumnKind]:
    return {column.name: column.kind for column in infer_schema(columns).columns}


def table(cells: list[Any]) -> RawTable:
    return RawTable(source="f", columns={"c": cells}, lines=range(2, len(cells) + 2))


@pytest.mark.parametrize("name", ["label", "Label", "CLASS", "category", "target", "标签", "情感"])
def test_a_telling_name_makes_the_label(name: str) -> None:
    assert kinds({"text": TEXTS, name: ["a", "b"] * 10})[name] == "label"


def test_a_telling_name_makes_the_label_of_two_rows() -> None:
    assert kinds({"text": ["hello there", "good bye"], "label": ["a", "b"]})["label"] == "label"


def test_few_distinct_values_make_the_label() -> None:
    assert kinds({"v2": TEXTS, "v1": ["ham", "spam"] * 10}) == {"v2": "text", "v1": "label"}
    stars: list[Any] = [1, 2, 3, 4] * 5
    assert kinds({"words": TEXTS, "stars": stars})["stars"] == "label"


def test_two_texts_make_no_label_and_the_longer_comes_first() -> None:
    short: list[Any] = [f"title {i}" for i in range(20)]
    found = infer_schema({"heading": short, "content": TEXTS})
    assert [(c.name, c.kind) for c in found.columns] == [("content", "text"), ("heading", "text")]


def test_row_numbers_are_left_out_and_said_so() -> None:
    found = infer_schema({"id": list(range(20)), "text": TEXTS, "label": ["a", "b"] * 10})
    assert found.ignored == ("id",)
    assert [c.name for c in found.columns] == ["text", "label"]


def test_other_kinds_are_told_by_their_values() -> None:
    columns: dict[str, list[Any]] = {
        "photo": [b"1", b"2"] * 10,
        "age": [0.5 + i for i in range(20)],
        "messages": [TALK] * 20,
    }
    assert kinds(columns) == {"photo": "image", "age": "number", "messages": "conversation"}


def test_a_misspelt_column_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidValueError, match="Did you mean 'label'") as caught:
        requested_schema({"lable": "label"}, ["text", "label"])
    assert caught.value.param == "columns.lable"
    with pytest.raises(InvalidValueError, match="both labels"):
        requested_schema({"a": "label", "b": "label"}, ["a", "b"])


def png() -> bytes:
    encoded = io.BytesIO()
    Image.linear_gradient("L").save(encoded, "PNG")
    return encoded.getvalue()


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        ("label", 3, "3"),
        ("label", 3.0, "3"),
        ("label", True, "true"),
        ("label", " spam ", "spam"),
        ("number", "1.5", 1.5),
        ("text", 12, "12"),
        ("image", f"data:image/png;base64,{base64.b64encode(png()).decode()}", png()),
    ],
)
def test_cells_become_values(kind: ColumnKind, cell: Any, value: object) -> None:
    assert convert(table([cell]), (Column(name="c", kind=kind),)) == {"c": [value]}


def test_conversations_keep_role_and_content() -> None:
    cell = [{"role": "developer", "content": "be brief", "name": "x"}, *TALK]
    (text,) = convert(table([cell]), (Column(name="c", kind="conversation"),))["c"]
    assert isinstance(text, str)
    assert json.loads(text) == [{"role": "system", "content": "be brief"}, *TALK]


@pytest.mark.parametrize(
    ("kind", "cell", "problem"),
    [
        ("text", "  ", "is empty"),
        ("text", None, "is not text"),
        ("text", "\ud800", "surrogate"),
        ("text", "x" * 2_000_000, "more than"),
        ("label", "", "is empty"),
        ("label", 1.5, "is not a label"),
        ("number", "twelve", "is not a finite number"),
        ("number", "inf", "is not a finite number"),
        ("image", b"no image", "is not a usable image"),
        ("image", "data:image/png;base64,!!", "not valid base64"),
        ("image", png()[:100], "is not a usable image"),
        ("conversation", [], "is not a list of messages"),
        ("conversation", TALK[:1], "no assistant message"),
        ("conversation", [{"role": "robot", "content": "x"}], "message 0 whose role"),
        ("conversation", [{"role": "user", "content": None}], "message 0 whose content"),
        ("conversation", ["hi"], "message 0 that is not an object"),
    ],
)
def test_a_cell_that_does_not_fit_names_line_and_column(
    kind: ColumnKind, cell: Any, problem: str
) -> None:
    good = {"text": "a", "label": "a", "number": 1, "image": png(), "conversation": TALK}[kind]
    with pytest.raises(InvalidFileError, match=f"'f', line 3: column 'c' .*{problem}"):
        convert(table([good, cell]), (Column(name="c", kind=kind),))
