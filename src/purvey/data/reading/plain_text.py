"""Bytes to text and lines: UTF-8 only, a byte order mark dropped, errors named by line."""

import codecs
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from purvey.contracts.limits import LIMITS
from purvey.data.reading.table import Cell, RawTable, check_row_count, row_error
from purvey.errors import InvalidFileError

CHUNK_CHARS = 2_000
"""Longest row made from a text file, in characters, unless one line alone is longer."""


def read_utf8(file: Path | bytes, *, source: str) -> str:
    """Return the text of a file, or of its content, without its byte order mark.

    Lines end in line feeds only.

    Raises:
        InvalidFileError: Bytes that are not UTF-8 (the line is named), or a NUL character.
    """
    content = file if isinstance(file, bytes) else file.read_bytes()
    data = content.removeprefix(codecs.BOM_UTF8)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InvalidFileError(f"{source!r} is UTF-16 text: save it as UTF-8.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise row_error(source, line, "bytes that are not UTF-8: save the file as UTF-8.") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise row_error(source, line, "a NUL character: save the file as plain UTF-8 text.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: str) -> Iterator[str]:
    """Yield the lines one by one: a list of all would be many times as large as the text."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def read_text(path: Path, *, source: str) -> RawTable:
    """Cut a text file into rows of at most `CHUNK_CHARS`, at blank lines where it can.

    A row is whole lines; a line longer than that is a row of its own.

    Raises:
        InvalidFileError: Not UTF-8, no text at all, a line above `LIMITS.row_bytes`, or more
            rows than a dataset may hold.
    """
    chunks: list[Cell] = []
    lines: list[int] = []
    for line, paragraph in _paragraphs(read_utf8(path, source=source)):
        if len(paragraph) > LIMITS.row_bytes // 4 and len(paragraph.encode()) > LIMITS.row_bytes:
            raise row_error(source, line, f"longer than {LIMITS.row_bytes} bytes: add line breaks.")
        last = chunks[-1] if chunks else None
        if isinstance(last, str) and len(last) + len(paragraph) + 2 <= CHUNK_CHARS:
            chunks[-1] = f"{last}\n\n{paragraph}"
        else:
            chunks.append(paragraph)
            lines.append(line)
            check_row_count(source, len(lines))  # at once: what is refused is not even held
    check_row_count(source, len(chunks))
    return RawTable(
        source=source, columns={"text": chunks}, lines=lines, details={"format": "text"}
    )


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of each run of lines without a blank, cut at `CHUNK_CHARS`."""
    held: list[str] = []
    held_chars = 0
    for number, line in enumerate(chain(lines_of(text), [""]), start=1):
        is_blank = not line.strip()
        if held and (is_blank or held_chars + len(line) > CHUNK_CHARS):
            yield number - len(held), "\n".join(held)
            held, held_chars = [], 0
        if not is_blank:
            held.append(line)
            held_chars += len(line) + 1
