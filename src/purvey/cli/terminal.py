"""What the terminal shows: tables for people, JSON for programs, errors as one line."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from purvey.errors import PurveyError

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 1_000
"""Columns where nobody looks: a pipe or a file."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def console() -> "Console":
    """Return a console on standard output; elsewhere than on a terminal, lines stay whole."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDE
    return Console(highlight=False, soft_wrap=True, width=width)


def notices() -> "Console":
    """Return a console on standard error, for progress and remarks beside the result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print a JSON value or an answer of the client, indented."""
    import msgspec

    print(json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows under headers, or the sentence `empty` when there are none.

    Numbers are set flush right; cells are text, never markup.
    """
    from rich.table import Table
    from rich.text import Text

    if not rows:
        console().print(empty, markup=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        is_number = all(isinstance(row[number], (int, float)) for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console().print(table)


def print_fields(fields: dict[str, object]) -> None:
    """Print names and values, one pair to a line, leaving out what is None."""
    width = max((len(name) for name in fields), default=0)
    out = console()
    for name, value in fields.items():
        if value is not None:
            out.print(f"{name:<{width}}  {_cell(value)}", markup=False)


def print_error(error: PurveyError, *, as_json: bool) -> None:
    """Write the error to standard error: one line, or the API's error object."""
    if as_json:
        body: dict[str, Any] = {"code": error.code, "message": error.text, "param": error.param}
        print(json.dumps({"error": body}, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"error: {' '.join(error.text.split())}", file=sys.stderr)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
