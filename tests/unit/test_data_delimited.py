"""Delimited files: delimiters, headers, quotes, and errors that name the line."""

from pathlib import Path

import pytest

from purvey.data.reading.delimited import read_delimited, sniff_delimiter
from purvey.data.reading.header import has_header
from purvey.data.reading.table import RawTable
from purvey.errors import InvalidFileError


def read(tmp_path: Path, text: str | bytes, **kwargs: object) -> RawTable:
    path = tmp_path / "data.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    wanted = kwargs.get("wanted", ())
    assert isinstance(wanted, tuple)
    form = kwargs.get("form", "csv")
    assert form in {"csv", "tsv"}
    return read_delimited(path, source="data.csv", form=form, wanted=wanted)


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    rows = [("text", "label"), ("it is fine", "good"), ("it is late", "bad")] * 1
    table = read(tmp_path, "\n".join(delimiter.join(row) for row in rows))
    assert table.columns == {"text": ["it is fine", "it is late"], "label": ["good", "bad"]}
    assert table.lines == [2, 3]
    assert table.details["delimiter"] == delimiter


def test_commas_in_text_do_not_hide_a_semicolon() -> None:
    assert sniff_delimiter("a, b and c;x\nd;y\ne, f;z\n") == ";"


def test_one_column_stays_one_column(tmp_path: Path) -> None:
    table = read(tmp_path, "text\nthe first row of words\nthe second row of words\n")
    assert table.columns == {"text": ["the first row of words", "the second row of words"]}


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    table = read(tmp_path, b"\xef\xbb\xbf" + "文本,标签\r\n很好,正面\r\n太差,负面\r\n".encode())
    assert list(table.columns) == ["文本", "标签"]
    assert table.columns["标签"] == ["正面", "负面"]


def test_rows_without_a_header_are_all_rows(tmp_path: Path) -> None:
    text = "ham\tGo until the point\nham\tOk, joking\nspam\tFree entry in a weekly draw\n"
    table = read(tmp_path, text, form="tsv")
    assert list(table.columns) == ["column_1", "column_2"]
    assert table.num_rows == 3


def test_lone_quotes_in_a_tab_separated_file_are_text(tmp_path: Path) -> None:
    table = read(tmp_path, 'Label\tSMS\nham\t"hello there\nspam\twin "now\nham\t"all ""in"""\n')
    assert table.columns["SMS"] == ['"hello there', 'win "now', 'all "in"']


def test_a_quoted_field_may_hold_line_breaks_and_the_line_stays_known(tmp_path: Path) -> None:
    table = read(tmp_path, 'text,label\n"one\ntwo",a\nthree,b\n')
    assert table.columns["text"] == ["one\ntwo", "three"]
    assert table.lines == [2, 4]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("text,label\na,b\nc,d,e\n", "line 3: 3 fields where the first line has 2"),
        ('text,label\n"a,b\n', "line 2: not readable as CSV"),
        ('text,label\n"a"x,b\n', "line 2: not readable as CSV"),
        ("a,b,a\n1,2,3\n", "twice"),
        (b"text,label\nok,a\n\xff\xfe bad,b\n", "line 3: bytes that are not UTF-8"),
        ("text,label\nnul\0,a\n", "line 2: a NUL character"),
        ("", "holds no rows"),
        ("text,label\n", "holds no rows"),
        ("text,label\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_line(
    tmp_path: Path, text: str | bytes, where: str
) -> None:
    if where == "twice":
        with pytest.raises(InvalidFileError, match=where):
            read(tmp_path, text, wanted=("a", "b"))
        return
    with pytest.raises(InvalidFileError, match=where):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([["v1", "v2"], *[["ham", "a message of many words"]] * 9], True),
        ([["question", "answer"], ["why", "so"]], True),
        ([["width", "height"], ["1.5", "2"], ["3", "4"]], True),
        ([["1.5", "2"], ["3", "4"]], False),
        ([["good", "a long text here"], ["good", "another text there"]], False),
        ([["only one record", "x"]], False),
    ],
)
def test_headers_are_told_from_rows(records: list[list[str]], expected: bool) -> None:
    assert has_header(records) is expected


def test_names_the_caller_asks_for_make_a_header() -> None:
    assert has_header([["w1", "w2"], ["w1", "w2"]], wanted=("w2",))
