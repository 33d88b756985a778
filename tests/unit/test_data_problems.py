"""All that is wrong with a file is told at once: places, counts, equal problems together."""

from pathlib import Path

import pytest

from purvey.contracts.data import Column
from purvey.data.convert import convert
from purvey.data.reading.delimited import read_delimited
from purvey.data.reading.jsonl import read_jsonl
from purvey.errors import InvalidFileError

COLUMNS = (
    Column(name="text", kind="text"),
    Column(name="label", kind="label"),
    Column(name="age", kind="number"),
)


def refusal(content: str) -> InvalidFileError:
    table = read_delimited(content.encode(), source="a.csv", form="csv", wanted={"text"})
    with pytest.raises(InvalidFileError) as caught:
        convert(table, COLUMNS)
    return caught.value


def test_empty_labels_are_one_message_with_their_count() -> None:
    rows = [f"message {n},{'' if n % 2 else 'yes'},{n}" for n in range(100)]
    error = refusal("\n".join(["text,label,age", *rows]))
    assert error.message.startswith("'a.csv' has 50 problems: lines 3, 5, 7, 9, 11, ")
    assert "41 and 30 more: column 'label' is empty: give the row a label" in error.message
    assert error.message.count("label' is empty") == 1
    assert error.param == "line 3"


def test_problems_of_all_columns_are_told_in_the_order_of_the_lines() -> None:
    error = refusal("text,label,age\nhi,,1\nhi,a,old\n ,b,3\nho,c,4\n")
    assert error.message == (
        "'a.csv' has 3 problems: "
        "line 2: column 'label' is empty: give the row a label, or drop it. "
        "line 3: column 'age' is not a finite number: give one, or drop the row. "
        "line 4: column 'text' is empty: give it text, or drop the row."
    )


def test_one_problem_reads_as_one() -> None:
    error = refusal("text,label,age\nhi,a,1\nho,b,x\n")
    assert error.message.startswith("'a.csv', line 3: column 'age' is not a finite number")
    assert error.param == "line 3"


def test_rows_that_cannot_be_read_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text('{"a": 1}\n{"a": \n[]\n{"b": 2}\n{"a": 3}\n[]\n', encoding="utf-8")
    with pytest.raises(InvalidFileError, match="has 4 problems: line 2: not one JSON") as caught:
        read_jsonl(path, source="a")
    assert "lines 3, 6: not a JSON object" in caught.value.message
    assert "line 4: lacks 'a'" in caught.value.message
    with pytest.raises(InvalidFileError, match="lines 2, 4: 3 fields where the first line has 2"):
        read_delimited(b"a,b\n1,2,3\n1,2\n1,2,3\n", source="a", form="csv", wanted={"a"})


def test_no_more_than_twenty_different_ones_are_named() -> None:
    lines = ['{"a": 1}', *(f'{{"b{n}": 1, "a": 1}}' for n in range(30))]
    with pytest.raises(InvalidFileError) as caught:
        read_jsonl("\n".join(lines).encode(), source="a")
    assert caught.value.message.startswith("'a' has 30 problems: line 2: has 'b0'")
    assert caught.value.message.endswith("10 other problems are not named.")
    assert "line 21: has 'b19'" in caught.value.message
    assert "line 22" not in caught.value.message
