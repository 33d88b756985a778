"""Cells to typed values by the schema; a cell that does not fit is refused by its line."""

import base64
import binascii
import json
import math
from collections.abc import Callable

from purvey.contracts.data import Column, ColumnKind
from purvey.contracts.limits import LIMITS
from purvey.data.conversations import as_conversation
from purvey.data.pictures import check_picture
from purvey.data.preferences import as_preference
from purvey.data.reading.table import Cell, RawTable
from purvey.data.recordings import check_recording

Value = str | float | bytes


class UnfitCellError(ValueError):
    """A cell does not fit its column; the message continues "column 'x' ..."."""


def convert(table: RawTable, columns: tuple[Column, ...]) -> dict[str, list[Value]]:
    """Convert the columns of one table.

    Text and labels become strings, numbers floats, images and recordings bytes that were decoded
    once, conversations their checked messages as JSON text.

    Raises:
        InvalidFileError: Names the first bad lines, with the column and what to change.
    """
    problems = table.problems()
    values: dict[str, list[Value]] = {column.name: [] for column in columns}
    for column in columns:
        to_value, target = _CONVERTERS[column.kind], values[column.name]
        for row, cell in enumerate(table.columns[column.name]):
            try:
                target.append(to_value(cell))
            except ValueError as error:
                table.note(problems, row, f"column {column.name!r} {error}")
    problems.check()
    return values


def _text(cell: Cell) -> str:
    if isinstance(cell, bool) or not isinstance(cell, (str, int, float)):
        msg = "is not text: give a string, or drop the row"
        raise UnfitCellError(msg)
    text = str(cell)
    if not text.strip():
        msg = "is empty: give it text, or drop the row"
        raise UnfitCellError(msg)
    _check_characters(text)
    if len(text) > LIMITS.row_bytes // 4 and len(text.encode()) > LIMITS.row_bytes:
        msg = f"holds more than {LIMITS.row_bytes} bytes: shorten it"
        raise UnfitCellError(msg)
    return text


def _label(cell: Cell) -> str:
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if not isinstance(cell, (str, int)):
        msg = "is not a label: give a string or a whole number"
        raise UnfitCellError(msg)
    label = str(cell).strip()
    if not label:
        msg = "is empty: give the row a label, or drop it"
        raise UnfitCellError(msg)
    _check_characters(label)
    return label


def _number(cell: Cell) -> float:
    if isinstance(cell, bool):
        return float(cell)
    try:
        number = float(cell) if isinstance(cell, (str, int, float)) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        msg = "is not a finite number: give one, or drop the row"
        raise UnfitCellError(msg)
    return number


def _image(cell: Cell) -> bytes:
    data = _encoded(cell, "an image")
    check_picture(data)
    return data


def _audio(cell: Cell) -> bytes:
    data = _encoded(cell, "a recording")
    check_recording(data)
    return data


def _encoded(cell: Cell, what: str) -> bytes:
    if isinstance(cell, str) and ";base64," in cell[:64]:
        try:
            return base64.b64decode(cell.split(";base64,", 1)[1], validate=True)
        except binascii.Error:
            msg = "is not valid base64"
            raise UnfitCellError(msg) from None
    if not isinstance(cell, bytes):
        msg = f"is not {what}: give bytes or a data URL"
        raise UnfitCellError(msg)
    return cell


def _conversation(cell: Cell) -> str:
    messages = [{"role": turn.role, "content": turn.content} for turn in as_conversation(cell)]
    text = json.dumps(messages, ensure_ascii=False, separators=(",", ":"))
    _check_characters(text)
    return text


def _preference(cell: Cell) -> str:
    text = as_preference(cell).as_json()
    _check_characters(text)
    return text


def _check_characters(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        msg = "holds half of a surrogate pair: write whole characters"
        raise UnfitCellError(msg) from None


_CONVERTERS: dict[ColumnKind, Callable[[Cell], Value]] = {
    "text": _text,
    "label": _label,
    "number": _number,
    "image": _image,
    "conversation": _conversation,
    "category": _label,
    "score": _number,
    "transcript": _text,
    "audio": _audio,
    "preference": _preference,
}
