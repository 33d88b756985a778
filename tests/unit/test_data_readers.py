"""JSON Lines, Parquet, text and zips: read strictly, refused by line."""

import io
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from purvey.contracts import limits
from purvey.contracts.jobs import InputFile
from purvey.data.reading.chat_file import read_chat_file
from purvey.data.reading.delimited import read_delimited
from purvey.data.reading.jsonl import read_jsonl
from purvey.data.reading.media_zip import read_media_zip
from purvey.data.reading.parquet import read_parquet
from purvey.data.reading.plain_text import CHUNK_CHARS, read_text
from purvey.data.reading.readers import detect_format, read_files
from purvey.errors import InvalidFileError, UnsafeArchiveError


def png(colour: tuple[int, int, int] = (10, 20, 30), side: int = 4) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(encoded, "PNG")
    return encoded.getvalue()


def file(path: Path, name: str | None = None) -> InputFile:
    return InputFile(
        role="source", path=str(path), name=name or path.name, sha256="0" * 64, num_bytes=0
    )


def packed(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"a": 1}\n[1]\n', "line 2: not a JSON object"),
        ('{"a": 1}\n{"a": }\n', "line 2: not one JSON object"),
        ('{"a": 1, "a": 2}\n', "line 1: not one JSON object .a key is repeated"),
        ('{"a": NaN}\n', "NaN is not JSON"),
        ('{"a": 1}\n\n{"b": 1}\n', "line 3: lacks 'a', unlike the first row"),
        ('{"a": 1}\n{"a": 1, "b": 2}\n', "line 2: has 'b', unlike the first row"),
        ("[" * 100_000 + "\n", "line 1: not one JSON object"),
        ("\n\n", "holds no rows"),
    ],
)
def test_bad_json_lines_are_refused_by_line(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidFileError, match=where):
        read_jsonl(path, source="rows.jsonl")


def test_reading_stops_at_the_row_that_is_too_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = limits.Limits(dataset_rows=2)
    monkeypatch.setattr("purvey.data.reading.table.LIMITS", small)
    monkeypatch.setattr("purvey.data.reading.delimited.LIMITS", small)
    path = tmp_path / "rows"
    path.write_text('{"a": 1}\n' * 3 + "never read\n", encoding="utf-8")
    with pytest.raises(InvalidFileError, match="more than 2 rows"):
        read_jsonl(path, source="rows.jsonl")
    path.write_text("text,label\na,b\nc,d\n", encoding="utf-8")
    assert read_delimited(path, source="rows.csv", form="csv").num_rows == 2
    path.write_text('text,label\na,b\nc,d\ne,f\n"never closed', encoding="utf-8")
    with pytest.raises(InvalidFileError, match="more than 2 rows"):
        read_delimited(path, source="rows.csv", form="csv")


def test_text_and_chats_stop_at_the_row_that_is_too_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("purvey.data.reading.table.LIMITS", limits.Limits(dataset_rows=2))
    path = tmp_path / "rows"
    long = "x" * CHUNK_CHARS + "\n\n"
    path.write_text(long * 3 + "y" * (2**20 + 1), encoding="utf-8")  # the last is never looked at
    with pytest.raises(InvalidFileError, match="more than 2 rows"):
        read_text(path, source="book.txt")
    path.write_text('{"messages": [{"role": "assistant", "content": "a"}]}\n' * 3 + "[", "utf-8")
    with pytest.raises(InvalidFileError, match="more than 2 rows"):
        read_chat_file(path, source="chat.jsonl")


def test_line_feeds_without_end_need_no_list_of_lines(tmp_path: Path) -> None:
    path, num_bytes = tmp_path / "empty", 120_000
    path.write_bytes(b"\n" * num_bytes)
    for read in (
        lambda: read_text(path, source="x.txt"),
        lambda: read_chat_file(path, source="x.jsonl"),
        lambda: read_jsonl(path, source="x.jsonl"),
        lambda: read_delimited(path, source="x.csv", form="csv"),
    ):
        with pytest.raises(InvalidFileError, match="no rows"):
            read()  # what is made at the first use is none of the file's
        tracemalloc.start()
        with pytest.raises(InvalidFileError, match="no rows"):
            read()
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # The bytes, the text, what reads it; a pointer a line would be eight times as much.
        assert peak_bytes < 3 * num_bytes + 2**19


def test_text_is_cut_at_blank_lines_and_loses_no_line(tmp_path: Path) -> None:
    paragraphs = [f"paragraph {i} " + "word " * (i % 90) for i in range(200)]
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    table = read_text(path, source="book.txt")
    chunks = [str(chunk) for chunk in table.columns["text"]]
    assert max(map(len, chunks)) <= CHUNK_CHARS
    assert [p.strip() for chunk in chunks for p in chunk.split("\n\n")] == [
        p.strip() for p in paragraphs
    ]


def test_a_long_paragraph_is_cut_at_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    lines = [f"line {i} of a list without blanks" for i in range(500)]
    path.write_text("\n".join(lines), encoding="utf-8")
    table = read_text(path, source="lines.txt")
    assert "\n".join("\n".join(str(c).split("\n\n")) for c in table.columns["text"]) == "\n".join(
        lines
    )


def test_parquet_columns_come_as_cells(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table(
        {
            "text": ["a", "b"],
            "label": pa.array(["x", "y"]).dictionary_encode(),
            "image": [{"bytes": b"1", "path": None}, {"bytes": b"2", "path": None}],
        }
    )
    pq.write_table(table, path)
    read = read_parquet(path, source="rows.parquet")
    assert read.columns == {"text": ["a", "b"], "label": ["x", "y"], "image": [b"1", b"2"]}
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(InvalidFileError, match="not readable as Parquet"):
        read_parquet(path, source="rows.parquet")


@pytest.mark.parametrize("is_dictionary", [True, False])
def test_a_value_stored_once_for_many_rows_is_no_way_to_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_dictionary: bool
) -> None:
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000, pa.int32()), ["x" * 10_000])
    text = values if is_dictionary else values.dictionary_decode()
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"text": text}), path)
    assert path.stat().st_size < 40_000
    assert read_parquet(path, source="b").num_rows == 2_000
    monkeypatch.setattr("purvey.data.reading.parquet.LIMITS", limits.Limits(archive_bytes=2**20))
    with pytest.raises(InvalidFileError, match="inflates to more than 1048576 bytes"):
        read_parquet(path, source="b")


def test_parquet_of_an_unknown_type_names_the_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"when": pa.array([0], pa.timestamp("s"))}), path)
    with pytest.raises(InvalidFileError, match="'when' has the type"):
        read_parquet(path, source="rows.parquet")


def test_images_take_the_label_of_their_folder(tmp_path: Path) -> None:
    entries = {
        "set/cats/1.png": png(),
        "set/dogs/1.PNG": png((1, 1, 1)),
        "__MACOSX/set/cats/1.png": b"junk",
        "set/cats/.DS_Store": b"junk",
    }
    table = read_media_zip(packed(tmp_path / "a.zip", entries), source="a.zip")
    assert table.columns["label"] == ["cats", "dogs"]
    assert table.columns["image"] == [png(), png((1, 1, 1))]


def test_an_office_document_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "report.docx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    with pytest.raises(InvalidFileError, match="save it as CSV"):
        read_media_zip(path, source="report.docx")


def test_caps_hold_for_the_whole_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {f"cats/{i}.png": png() for i in range(3)})
    small = limits.Limits(archive_entries=2)
    monkeypatch.setattr("purvey.data.reading.zip_file.LIMITS", small)
    with pytest.raises(UnsafeArchiveError, match="more than 2 entries"):
        read_media_zip(path, source="a.zip")
    monkeypatch.setattr("purvey.data.reading.zip_file.LIMITS", limits.Limits(archive_bytes=100))
    with pytest.raises(UnsafeArchiveError, match="more than 100 bytes"):
        read_media_zip(path, source="a.zip")


@pytest.mark.parametrize(
    ("entries", "where"),
    [
        ({"loose.png": png()}, "lies in no class folder"),
        ({"cats/notes.txt": b"x"}, "is not an image"),
        ({"cats/1.png": png(), "dogs/": b""}, "class folder 'dogs/' is empty"),
        ({}, "holds no rows"),
    ],
)
def test_zips_that_are_no_class_folders_are_refused(
    tmp_path: Path, entries: dict[str, bytes], where: str
) -> None:
    with pytest.raises(InvalidFileError, match=where):
        read_media_zip(packed(tmp_path / "a.zip", entries), source="a.zip")


def test_a_torn_zip_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"cats/1.png": png()})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InvalidFileError, match="not a readable zip"):
        read_media_zip(path, source="a.zip")


@pytest.mark.parametrize(
    ("name", "data", "form"),
    [
        ("a.csv", b"", "csv"),
        ("a.TSV", b"", "tsv"),
        ("a.jsonl", b"", "jsonl"),
        ("a.zip", b"", "zip"),
        ("SMSData", b"ham\thello\nspam\twin\n", "tsv"),
        ("rows.txt", b"ham\thello\nspam\twin\n", "tsv"),
        ("book.txt", b"Call me\nIshmael.\n", "text"),
        ("rows", b'\xef\xbb\xbf{"a": 1}\n', "jsonl"),
        ("images", b"PK\x03\x04....", "zip"),
        ("table", b"PAR1....", "parquet"),
    ],
)
def test_formats_are_told_by_ending_then_by_bytes(
    tmp_path: Path, name: str, data: bytes, form: str
) -> None:
    path = tmp_path / "blob"
    path.write_bytes(data)
    assert detect_format(file(path, name)) == form


def test_files_of_one_dataset_must_have_equal_columns(tmp_path: Path) -> None:
    one, two = tmp_path / "1.csv", tmp_path / "2.csv"
    one.write_text("text,label\na,b\n", encoding="utf-8")
    two.write_text("text,class\na,b\n", encoding="utf-8")
    with pytest.raises(InvalidFileError, match=r"'2.csv' has the columns"):
        read_files([file(one), file(two)])
    with pytest.raises(InvalidFileError, match="at least one file"):
        read_files([])
