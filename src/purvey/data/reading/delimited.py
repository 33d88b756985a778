"""Comma, tab, semicolon and bar separated files, with or without a header line.

The delimiter is the one that gives the most records the same number of fields. In a tab
separated file a quote is an ordinary character unless the field is wholly quoted: message
corpora are full of lone quotes, and reading them as CSV would swallow lines.
"""

import csv
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from purvey.contracts.files.problems import Problems
from purvey.contracts.limits import LIMITS
from purvey.data.reading.header import has_header
from purvey.data.reading.plain_text import lines_of, read_utf8
from purvey.data.reading.table import Cell, RawTable, check_column_count, check_row_count, row_error
from purvey.errors import InvalidFileError

DELIMITERS = ("\t", ",", ";", "|")
SAMPLE_RECORDS = 200

Record = tuple[int, list[str]]


def read_delimited(
    file: Path | bytes, *, source: str, form: Literal["csv", "tsv"], wanted: Collection[str] = ()
) -> RawTable:
    """Read a delimited file.

    Args:
        file: The file, or its content.
        source: Its name, for messages and for the delimiter's tie-break.
        form: `tsv` fixes the delimiter to a tab; `csv` finds it.
        wanted: Column names the caller will ask for; a first line that holds them all is a header.

    Raises:
        InvalidFileError: Names the first bad lines: not UTF-8, an open quote, a row whose number of
            fields differs, a repeated or empty column name.
    """
    text = read_utf8(file, source=source)
    delimiter = "\t" if form == "tsv" else sniff_delimiter(text)
    most = LIMITS.dataset_rows + 2  # a header, and one that shows there are too many
    records = list(islice(_records(text, delimiter, source=source), most))
    check_row_count(source, min(len(records), 1))
    is_headed = has_header([fields for _, fields in records[:SAMPLE_RECORDS]], wanted=wanted)
    width = len(records[0][1])
    check_column_count(source, width)
    names = _names(records[0], source=source) if is_headed else _numbered(width)
    body = records[1:] if is_headed else records
    check_row_count(source, len(body))
    problems = Problems(source=source)
    for line, fields in body:
        if len(fields) != width:
            found = f"{len(fields)} fields where the first line has {width}"
            problems.add(line, f"{found}: quote text that holds {delimiter!r}")
    problems.check()
    columns: dict[str, list[Cell]] = {
        name: [fields[i] for _, fields in body] for i, name in enumerate(names)
    }
    return RawTable(
        source=source,
        columns=columns,
        lines=[line for line, _ in body],
        details={"format": form, "delimiter": delimiter, "has_header": is_headed},
    )


def sniff_delimiter(text: str) -> str:
    """Return the delimiter under which most of the first records have equally many fields.

    A comma when none splits anything: the file then has one column.
    """
    best, best_share = ",", 0.0
    sample = "\n".join(text[: 64 * 1_024].split("\n")[:SAMPLE_RECORDS])
    for delimiter in DELIMITERS:
        try:
            widths = [len(fields) for _, fields in _records(sample, delimiter, is_strict=False)]
        except csv.Error:
            continue
        if not widths or widths[0] < 2:
            continue
        share = Counter(widths)[widths[0]] / len(widths)
        if share > best_share:
            best, best_share = delimiter, share
    return best


def _records(
    text: str, delimiter: str, *, source: str = "", is_strict: bool = True
) -> Iterator[Record]:
    if delimiter == "\t" and _is_plain(text):
        for number, line in enumerate(lines_of(text), start=1):
            if line.strip():
                yield number, [_unquoted(field) for field in line.split("\t")]
        return
    yield from _quoted_records(text, delimiter, source=source, is_strict=is_strict)


def _is_plain(text: str) -> bool:
    """Tell whether every line by itself has the same number of tabs."""
    return len({line.count("\t") for line in lines_of(text) if line.strip()}) == 1


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    if len(field) >= 2 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return field


def _quoted_records(text: str, delimiter: str, *, source: str, is_strict: bool) -> Iterator[Record]:
    csv.field_size_limit(LIMITS.row_bytes)
    terminated = (f"{line}\n" for line in lines_of(text))
    reader = csv.reader(terminated, delimiter=delimiter, strict=is_strict, skipinitialspace=False)
    start = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        if not source:
            raise
        problem = f"not readable as CSV ({error}): close the quote, or double quotes inside text."
        raise row_error(source, start, problem) from None


def _names(record: Record, *, source: str) -> list[str]:
    line, fields = record
    names = [field.strip() for field in fields]
    for i, name in enumerate(names):
        if not name:
            names[i] = f"column_{i + 1}"
        elif len(name) > 128:
            raise row_error(source, line, "a column name is longer than 128 characters.")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InvalidFileError(f"{source!r} has the column {repeated[0]!r} twice: rename one.")
    return names


def _numbered(width: int) -> list[str]:
    return [f"column_{i + 1}" for i in range(width)]
