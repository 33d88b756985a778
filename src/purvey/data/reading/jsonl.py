"""JSON Lines: one object per line, all with the same keys; conversations and preferences too."""

import json
from pathlib import Path
from typing import Any, NoReturn

from purvey.contracts.files.problems import Problems, UnusableRowError
from purvey.contracts.limits import LIMITS
from purvey.contracts.rows import ANSWERS, PROMPT
from purvey.data.reading.plain_text import lines_of, read_utf8
from purvey.data.reading.table import Cell, RawTable, check_column_count, check_row_count

PREFERENCE = "preference"
"""Column that the three keys of a preference in OpenAI's shape are read into."""


def read_jsonl(file: Path | bytes, *, source: str) -> RawTable:
    """Read a JSON Lines file, or its content; blank lines are skipped.

    Raises:
        InvalidFileError: Names the first bad lines: not an object, a repeated key, NaN, keys that
            differ from the first row's, a row above `LIMITS.row_bytes`.
    """
    columns: dict[str, list[Cell]] = {}
    lines: list[int] = []
    problems = Problems(source=source)
    for line, text in enumerate(lines_of(read_utf8(file, source=source)), start=1):
        if not text.strip():
            continue
        try:
            row = parse_object(text)
            if not lines:
                check_column_count(source, len(row))
                columns = {name: [] for name in row}
            _check_keys(row, columns)
        except UnusableRowError as error:
            problems.add(line, str(error))
            continue
        for name, cells in columns.items():
            cells.append(row[name])
        lines.append(line)
        check_row_count(source, len(lines))  # at once: what is refused is not even held
    problems.check()
    check_row_count(source, len(lines))
    return RawTable(
        source=source, columns=_folded(columns), lines=lines, details={"format": "jsonl"}
    )


def parse_object(text: str) -> dict[str, Any]:
    """Parse one line's text strictly into an object.

    Raises:
        UnusableRowError: Says what is wrong with it.
    """
    if len(text) > LIMITS.row_bytes // 4 and len(text.encode()) > LIMITS.row_bytes:
        msg = f"longer than {LIMITS.row_bytes} bytes: shorten the row"
        raise UnusableRowError(msg)
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        msg = f"not one JSON object ({reason})"
        raise UnusableRowError(msg) from None
    if not isinstance(value, dict) or not value:
        msg = "not a JSON object with at least one key"
        raise UnusableRowError(msg)
    if text.count("[") + text.count("{") > LIMITS.json_depth:
        _check_depth(value)
    return value


def _folded(columns: dict[str, list[Cell]]) -> dict[str, list[Cell]]:
    """Join the three columns of preferences in OpenAI's shape into one; others stay as they are."""
    names = (PROMPT, *ANSWERS)
    if PREFERENCE in columns or not columns.keys() >= set(names):
        return columns
    if not isinstance(columns[PROMPT][0], dict):
        return columns
    rows = zip(*(columns[name] for name in names), strict=True)
    pairs: list[Cell] = [dict(zip(names, row, strict=True)) for row in rows]
    others = {name: cells for name, cells in columns.items() if name not in names}
    return {PREFERENCE: pairs, **others}


def _check_depth(value: object) -> None:
    """Refuse a row that nests deeper than a request may: what reads it later would not end."""
    layer: list[Any] = [value]
    depth = 0
    while layer:
        depth += 1
        if depth > LIMITS.json_depth:
            msg = f"nested deeper than {LIMITS.json_depth} levels: flatten it"
            raise UnusableRowError(msg)
        inner = ((v.values() if isinstance(v, dict) else v) for v in layer)
        layer = [item for items in inner for item in items if isinstance(item, (list, dict))]


def _check_keys(row: dict[str, Any], columns: dict[str, list[Cell]]) -> None:
    if row.keys() == columns.keys():
        return
    missing = [name for name in columns if name not in row]
    extra = [name for name in row if name not in columns]
    said = f"lacks {missing[0]!r}" if missing else f"has {extra[0]!r}"
    msg = f"{said}, unlike the first row: give every row the same keys"
    raise UnusableRowError(msg)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        msg = "a key is repeated"
        raise ValueError(msg)
    return values


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)
